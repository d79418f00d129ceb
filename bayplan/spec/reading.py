"""Files, directories and standard input to documents."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bayplan.model.errors import InvalidSpec
from bayplan.model.quota import QuotaSpec
from bayplan.model.secret import Secret
from bayplan.model.service import ServiceSpec
from bayplan.spec.check import check
from bayplan.spec.fields import PLURAL
from bayplan.spec.problems import Complaint, SpecErrors, path_text, shorten
from bayplan.spec.source import FILE_BYTES_MAX, Raw, Unreadable, read

SUFFIXES = (".yaml", ".yml")
FILES_MAX = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One object as read. `source` is its YAML as typed, comments included; empty for a secret,
    whose source would give its values away. `origin` and `line` say where it stands."""

    object: ServiceSpec | Secret | QuotaSpec
    source: str
    origin: str
    line: int

    @property
    def kind(self) -> str:
        match self.object:
            case Secret():
                return "Secret"
            case QuotaSpec():
                return "Quota"
            case spec:
                return str(spec.kind)


def load(
    names: Sequence[str], *, namespace: str = "default", recursive: bool = False
) -> tuple[Document, ...]:
    """Read every file and directory (its *.yaml and *.yml, sorted; below it with `recursive`),
    `-` for standard input. `namespace` is that of documents which name none. Raises SpecErrors
    with all that is wrong in all of them, and InvalidSpec where there is nothing to read."""
    documents: list[Document] = []
    complaints: list[Complaint] = []
    for origin, directory, text in _texts(names, recursive, complaints):
        found, wrong = _parse(text, origin, directory, namespace)
        documents += found
        complaints += wrong
    complaints += _twice(documents)
    if complaints:
        raise SpecErrors(complaints)
    if not documents:
        raise InvalidSpec(f"there is no object in {', '.join(names)}", hint="write kind: Service")
    return tuple(documents)


def parse(
    text: str, *, origin: str = "-", directory: Path | None = None, namespace: str = "default"
) -> tuple[Document, ...]:
    """The documents of one text; `directory` is where the files of its secrets lie. Raises
    SpecErrors."""
    documents, complaints = _parse(text, origin, directory or Path(), namespace)
    complaints += _twice(documents)
    if complaints:
        raise SpecErrors(complaints)
    return tuple(documents)


def _texts(
    names: Sequence[str], recursive: bool, complaints: list[Complaint]
) -> Iterator[tuple[str, Path, str]]:
    seen: set[tuple[int, int]] = set()
    for name in names:
        if name == "-":
            yield from _decoded(
                "stdin", Path(), sys.stdin.buffer.read(FILE_BYTES_MAX + 1), complaints
            )
            continue
        for path in _files(Path(name), recursive, complaints):
            try:
                # Non-blocking: a FIFO without a writer is refused below instead of waited for.
                fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            except OSError as error:
                complaints.append(_about(str(path), f"cannot be read: {_reason(error)}"))
                continue
            with os.fdopen(fd, "rb") as file:
                status = os.fstat(fd)
                if not stat.S_ISREG(status.st_mode):
                    complaints.append(_about(str(path), "is not a regular file"))
                    continue
                if (status.st_dev, status.st_ino) in seen:
                    continue
                seen.add((status.st_dev, status.st_ino))
                content = file.read(FILE_BYTES_MAX + 1)
            yield from _decoded(str(path), path.parent, content, complaints)


def _files(path: Path, recursive: bool, complaints: list[Complaint]) -> list[Path]:
    if not path.is_dir():
        return [path]
    pattern = "**/*" if recursive else "*"
    found = sorted(p for p in path.glob(pattern) if p.suffix in SUFFIXES and p.is_file())
    if not found:
        complaints.append(_about(str(path), f"holds no file that ends in {' or '.join(SUFFIXES)}"))
    if len(found) > FILES_MAX:
        complaints.append(_about(str(path), f"holds more than {FILES_MAX} files"))
        return []
    return found


def _decoded(
    origin: str, directory: Path, content: bytes, complaints: list[Complaint]
) -> Iterator[tuple[str, Path, str]]:
    if len(content) > FILE_BYTES_MAX:
        complaints.append(_about(origin, f"is longer than {FILE_BYTES_MAX >> 20} MiB"))
        return
    try:
        yield origin, directory, content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        complaints.append(_about(origin, "is not UTF-8 text; save it as UTF-8", line))


def _about(origin: str, message: str, line: int = 0) -> Complaint:
    return Complaint(origin=shorten(origin, 200), line=line, subject="", path="", message=message)


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def _parse(
    text: str, origin: str, directory: Path, namespace: str
) -> tuple[list[Document], list[Complaint]]:
    origin = shorten(origin, 200)
    try:
        raws = read(text)
    except Unreadable as error:
        return [], [_about(origin, error.message, error.line)]
    documents: list[Document] = []
    complaints: list[Complaint] = []
    for number, raw in enumerate(raws, start=1):
        subject = _subject(raw, number)
        made, problems = check(raw.value, namespace, directory)
        found = [(p.path, p.message) for p in problems]
        for path, line, first in raw.duplicates:
            complaints.append(
                Complaint(
                    origin=origin,
                    line=line,
                    subject=subject,
                    path=path_text(path),
                    message=f"stands in line {first} already; leave one out",
                )
            )
        for path, message in found:
            complaints.append(
                Complaint(
                    origin=origin,
                    line=_line_of(raw, path),
                    subject=subject,
                    path=path_text(path),
                    message=message,
                )
            )
        if made is not None and not problems:
            source = "" if isinstance(made, Secret) else raw.text
            documents.append(Document(object=made, source=source, origin=origin, line=raw.line))
    return documents, sorted(complaints, key=lambda c: c.line)


def _line_of(raw: Raw, path: tuple[str | int, ...]) -> int:
    """The line of the field, or of the nearest one around it that was written."""
    while path and path not in raw.lines:
        path = path[:-1]
    return raw.lines.get(path, raw.line)


def _subject(raw: Raw, number: int) -> str:
    if isinstance(raw.value, dict):
        kind, name = raw.value.get("kind"), raw.value.get("name")
        if isinstance(kind, str) and isinstance(name, str) and kind in PLURAL:
            return f"{PLURAL[kind]}/{shorten(name, 63)}"
    return f"document {number}"


def _twice(documents: Sequence[Document]) -> list[Complaint]:
    first: dict[tuple[str, str, str], Document] = {}
    complaints = []
    for document in documents:
        key = (document.kind, document.object.namespace, document.object.name)
        if key in first:
            complaints.append(
                Complaint(
                    origin=document.origin,
                    line=document.line,
                    subject=f"{PLURAL[document.kind]}/{document.object.name}",
                    path="",
                    message=f"stands in {first[key].origin}:{first[key].line} already; "
                    "leave one out, or give one another name or namespace",
                )
            )
        first.setdefault(key, document)
    return complaints
