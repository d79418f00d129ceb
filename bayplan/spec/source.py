"""YAML text to plain values with the line of everything, and no surprises.

Scalars stay the text that was typed: `no`, `22:22`, `0777` and `1.10` are not turned into
something else, and each field reads its own kind of value out of the text. Duplicate keys, tags,
deep nesting and anchors that expand without bound are refused. The tree is built from libyaml's
parse events (YAML 1.1), so that nothing is expanded before it was counted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from bayplan.spec.problems import Path, shorten

FILE_BYTES_MAX = 1 << 20
NODES_MAX = 20_000
DEPTH_MAX = 24
DOCUMENTS_MAX = 500

_NULLS = frozenset({"", "~", "null", "Null", "NULL"})


class Unreadable(Exception):
    """One thing that is wrong with the YAML itself, at a line (from 1)."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line
        self.message = message


@dataclass(frozen=True, slots=True)
class Raw:
    """One YAML document: `value` is made of dict, list, str and None; `lines` maps each path in
    it to its line; `duplicates` are keys written twice."""

    value: Any
    line: int
    text: str
    lines: dict[Path, int]
    duplicates: tuple[tuple[Path, int, int], ...]


@dataclass(slots=True)
class _Node:
    """Mapping: `items` holds (key, key's line, child); sequence: children; scalar: text."""

    kind: str
    line: int
    text: str | None = None
    pairs: list[tuple[str, int, _Node]] = field(default_factory=list)
    children: list[_Node] = field(default_factory=list)


def read(text: str) -> list[Raw]:
    """All documents of a text, empty ones left out. Raises Unreadable at the first fault of the
    YAML itself (what follows one means nothing)."""
    try:
        return _read(text)
    except yaml.MarkedYAMLError as error:
        raise _syntax_error(text, error) from None
    except yaml.reader.ReaderError as error:
        line = text[: int(error.position)].count("\n") + 1
        raise Unreadable(line, f"not YAML: {error.reason}") from None


def _read(text: str) -> list[Raw]:
    events = yaml.parse(text, Loader=yaml.CSafeLoader)
    found: list[tuple[int, int, bool, _Node]] = []
    for event in events:
        if isinstance(event, yaml.DocumentStartEvent):
            if len(found) == DOCUMENTS_MAX:
                raise Unreadable(_line(event), f"more than {DOCUMENTS_MAX} documents in one file")
            start = _line(event)
            node = _Builder(events).document()
            found.append((start, node.line, bool(event.explicit), node))
    lines = text.splitlines(keepends=True)
    starts = [start for start, _, explicit, _ in found if explicit]
    raws = []
    for number, (start, line, explicit, node) in enumerate(found):
        if node.kind == "scalar" and node.text is None:
            continue
        chunk = _chunk(lines, start if explicit else 0, starts, first=number == 0)
        raws.append(_expand(node, line, chunk))
    return raws


def _chunk(lines: list[str], start: int, starts: list[int], *, first: bool) -> str:
    """The text of the document whose `---` stands in line `start` (0: it has none), together
    with the comments before it where it is the first."""
    after = [s for s in starts if s > start]
    end = after[0] - 1 if after else len(lines)
    body = lines[start:end]
    if start:
        rest = lines[start - 1][3:].lstrip(" \t")
        head = lines[: start - 1] if first else []
        comments = [line for line in head if line.startswith("#")]
        body = comments + ([rest] if rest.strip() else []) + body
    while body and body[-1].strip() in ("", "..."):
        body.pop()
    return "".join(body).rstrip("\n") + "\n"


class _Builder:
    """Nodes of one document from parse events."""

    def __init__(self, events: Iterator[Any]) -> None:
        self.events = events
        self.anchors: dict[str, _Node | None] = {}
        self.count = 0

    def document(self) -> _Node:
        """The root; the DocumentEnd event is consumed."""
        root = self.node(next(self.events), 0)
        next(self.events)
        return root

    def node(self, event: Any, depth: int) -> _Node:
        self.count += 1
        line = _line(event)
        if depth > DEPTH_MAX:
            raise Unreadable(line, f"nested more than {DEPTH_MAX} deep")
        if self.count > NODES_MAX:
            raise Unreadable(line, f"more than {NODES_MAX} values in one document")
        if isinstance(event, yaml.AliasEvent):
            return self.alias(event.anchor or "", line)
        if event.tag is not None and event.tag not in ("!", "tag:yaml.org,2002:str"):
            raise Unreadable(
                line, f'the tag "{shorten(event.tag)}" has no meaning here; leave it out'
            )
        if event.anchor is not None:
            self.anchors[event.anchor] = None  # not to be used inside itself
        node = self.content(event, depth, line)
        if event.anchor is not None:
            self.anchors[event.anchor] = node
        return node

    def alias(self, name: str, line: int) -> _Node:
        if name not in self.anchors:
            raise Unreadable(line, f"*{shorten(name)} refers to no anchor above it")
        target = self.anchors[name]
        if target is None:
            raise Unreadable(line, f"*{shorten(name)} refers to what it stands in")
        return target

    def content(self, event: Any, depth: int, line: int) -> _Node:
        if isinstance(event, yaml.ScalarEvent):
            plain = bool(event.implicit[0])  # neither quoted nor tagged
            text = None if plain and event.value in _NULLS else str(event.value)
            return _Node("scalar", line, text)
        if isinstance(event, yaml.SequenceStartEvent):
            node = _Node("sequence", line)
            while not isinstance(child := next(self.events), yaml.SequenceEndEvent):
                node.children.append(self.node(child, depth + 1))
            return node
        node = _Node("mapping", line)
        while not isinstance(key := next(self.events), yaml.MappingEndEvent):
            key_node = self.node(key, depth + 1)
            if key_node.kind != "scalar" or key_node.text is None:
                raise Unreadable(key_node.line, "a key must be a word")
            value = self.node(next(self.events), depth + 1)
            node.pairs.append((key_node.text, _line(key), value))
        return node


@dataclass(slots=True)
class _Expansion:
    lines: dict[Path, int] = field(default_factory=dict)
    duplicates: list[tuple[Path, int, int]] = field(default_factory=list)
    count: int = 0


def _expand(root: _Node, line: int, text: str) -> Raw:
    state = _Expansion()
    value = _value(root, (), root.line, state)
    return Raw(value, line, text, state.lines, tuple(state.duplicates))


def _value(node: _Node, path: Path, line: int, state: _Expansion) -> Any:
    state.count += 1
    if state.count > NODES_MAX:
        raise Unreadable(line, f"anchors expand to more than {NODES_MAX} values")
    state.lines[path] = line
    if node.kind == "scalar":
        return node.text
    if node.kind == "sequence":
        return [_value(c, (*path, i), c.line, state) for i, c in enumerate(node.children)]
    made: dict[str, Any] = {}
    seen: dict[str, int] = {}
    for key, key_line, child in node.pairs:
        if key == "<<":
            continue
        if key in seen:
            state.duplicates.append(((*path, key), key_line, seen[key]))
            continue
        seen[key] = key_line
        made[key] = _value(child, (*path, key), key_line, state)
    for key, key_line, child in node.pairs:
        if key == "<<":
            _merge(child, path, key_line, made, state)
    return made


def _merge(child: _Node, path: Path, line: int, made: dict[str, Any], state: _Expansion) -> None:
    """`<<: *base` (https://yaml.org/type/merge.html): keys that are there already win."""
    for source in child.children if child.kind == "sequence" else [child]:
        if source.kind != "mapping":
            raise Unreadable(line, "<< wants a mapping, e.g. <<: *base")
        for key, key_line, value in source.pairs:
            if key == "<<":
                _merge(value, path, key_line, made, state)
            elif key not in made:
                made[key] = _value(value, (*path, key), key_line, state)


def _line(event: Any) -> int:
    return int(event.start_mark.line) + 1


def _syntax_error(text: str, error: yaml.MarkedYAMLError) -> Unreadable:
    mark = error.problem_mark or error.context_mark
    line = mark.line + 1 if mark else 1
    lines = text.splitlines()
    problem = re.sub(r"\s+", " ", error.problem or "cannot be read")
    # libyaml points past the end of the text where something is left open
    line = max(1, min(line, len(lines)))
    if line <= len(lines) and lines[line - 1].lstrip(" ").startswith("\t"):
        return Unreadable(line, "not YAML: a tab indents this line; indent with spaces")
    where = ""
    if "unexpected ':'" in problem:
        return Unreadable(
            line,
            'not YAML: a ":" where none can stand; put a space after it, or quotes around a value '
            "that holds it",
        )
    if error.context and error.context_mark and error.context_mark.line + 1 != line:
        where = f" ({error.context}, which began in line {error.context_mark.line + 1})"
    elif error.context:
        where = f" ({error.context})"
    return Unreadable(line, f"not YAML: {problem}{where}")
