"""Names, labels and references to secrets."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from bayplan.model.service import SecretReference
from bayplan.model.validate.problems import Path, Problem

DNS_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
NAME_MAX = 63
NAME_CHARACTERS = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")
LABEL_KEY = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._/-]{0,251}[A-Za-z0-9])?")
SECRET_KEY = re.compile(r"[A-Za-z0-9._-]{1,253}")


def check_name(name: str, path: Path) -> Iterator[Problem]:
    """A DNS label (RFC 1123): namespaces, objects, ports."""
    if DNS_LABEL.fullmatch(name) is None:
        if len(name) > NAME_MAX and NAME_CHARACTERS.fullmatch(name):
            yield Problem(path, f'"{name[:20]}…" has {len(name)} characters; at most {NAME_MAX}')
            return
        better = re.sub(r"[^a-z0-9-]+", "-", name.lower()).strip("-")[:63].strip("-") or "web"
        yield Problem(
            path,
            f'"{name[:80]}" is not a name; use lower-case letters, digits and dashes, '
            f"e.g. {better}",
        )


def check_labels(labels: Mapping[str, str]) -> Iterator[Problem]:
    """Keys with their values, as the labels of nodes and objects have them."""
    for key, value in labels.items():
        if LABEL_KEY.fullmatch(key) is None:
            yield Problem(
                ("labels", key),
                f'"{key[:80]}" is not a label; use letters, digits, dots, dashes and slashes',
            )
        if len(value) > 1024:
            yield Problem(("labels", key), "is longer than 1024 characters")


def check_secret(reference: SecretReference, path: Path) -> Iterator[Problem]:
    """A reference to one value of a secret."""
    if DNS_LABEL.fullmatch(reference.name) is None:
        yield Problem(path, f'"{reference.name[:80]}" is not the name of a secret; write NAME/KEY')
    if SECRET_KEY.fullmatch(reference.key) is None:
        yield Problem(path, f'"{reference.key[:80]}" is not the key of a secret; write NAME/KEY')
