"""docs/spec-reference.md says what the fields are, and its examples are good."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import pytest
import yaml
from pydantic import TypeAdapter

from bayplan.spec import load
from bayplan.spec.schema import json_schema
from tests.unit.docs import reference

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "docs/spec-reference.md").read_text()
PAGES = [*sorted(ROOT.glob("docs/**/*.md")), ROOT / "README.md"]


def _table(model: str) -> list[list[str]]:
    """The cells of the table with the fields of the model; `\\|` does not occur in it."""
    wanted = [row[0] for row in reference.rows(_model(model))]
    for table in re.findall(r"\| Field \|.*\n\|---.*\n((?:\|.*\n)+)", TEXT + "\n"):
        cells = [[c.strip() for c in line.strip("|").split(" | ")] for line in table.splitlines()]
        if [row[0] for row in cells] == wanted:
            return cells
    pytest.fail(f"no table of docs/spec-reference.md has the fields of {model}: {wanted}")


def _model(name: str) -> Any:
    return next(m for m in reference.MODELS if m.__name__ == name)


@pytest.mark.parametrize("model", [m.__name__ for m in reference.MODELS])
def test_every_field_has_its_row(model: str) -> None:
    """Name, type, default and meaning are those of the fields."""
    shown = [(name, kind, default, text) for name, kind, default, _, text in _table(model)]
    assert shown == list(reference.rows(_model(model)))


@pytest.mark.parametrize("model", [m.__name__ for m in reference.MODELS])
def test_every_example_is_accepted(model: str) -> None:
    """The example of each field is a value of the field."""
    for name, field in reference.own_fields(_model(model)).items():
        example = next(row[3] for row in _table(model) if row[0] == f"`{name}`").strip("`")
        kind = field.annotation
        if field.metadata:
            kind = Annotated[kind, *field.metadata]
        # The base loader reads texts alone, as the source of specs does.
        TypeAdapter[Any](kind).validate_python(yaml.load(example, yaml.BaseLoader))


def test_the_schema_has_no_field_that_is_not_described() -> None:
    """What editors complete is what the reference names."""
    named = {m.__name__ for m in reference.MODELS if m is not reference.fields.TaskFields}
    assert set(json_schema()["$defs"]) == named


def _examples() -> list[tuple[str, str]]:
    return [
        (page.name, block)
        for page in PAGES
        for block in re.findall(r"^```yaml\n(.*?)^```", page.read_text(), re.M | re.S)
        if re.search(r"^kind:", block, re.M)
    ]


@pytest.mark.parametrize(("page", "block"), _examples())
def test_the_examples_of_the_pages_are_specs(page: str, block: str, tmp_path: Path) -> None:
    """Each document with a kind can be applied; files that a secret names are there."""
    for name in ("tls.key", "tls.pem"):
        (tmp_path / name).write_text("content")
    (tmp_path / "spec.yaml").write_text(block)
    assert load([tmp_path / "spec.yaml"])
