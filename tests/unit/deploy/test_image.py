"""deploy/Containerfile gets from a checkout what deploy/install asks for."""

from __future__ import annotations

import re
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[3]


def test_the_image_gets_what_is_installed() -> None:
    """The build's context leaves out most of a checkout, and none of what it needs."""
    install = (CHECKOUT / "deploy/install").read_text()
    copied = re.search(r'cp -r (.*) "\$copy"', install)
    assert copied is not None
    ignore = (CHECKOUT / ".dockerignore").read_text().splitlines()
    kept = {line.removeprefix("!") for line in ignore if line.startswith("!")}
    assert {*copied[1].split(), "requirements.txt", "deploy"} == kept
    assert all((CHECKOUT / name).exists() for name in kept)


def test_the_chart_names_the_file_that_is_there() -> None:
    """And the file calls the installer the way it wants to be called."""
    assert "deploy/Containerfile" in (CHECKOUT / "helm/bayplan/values.yaml").read_text()
    assert (
        "install --program-only controller agent" in (CHECKOUT / "deploy/Containerfile").read_text()
    )
