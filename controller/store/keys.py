"""Where an object lies in etcd: `/bayplan/v1/<kind>/<namespace>/<name>`.

Cluster-wide kinds have no namespace level; events of cluster-wide objects lie under `-`, which is
no namespace's name. The mapping is injective: an element never holds a
slash, and each kind has a fixed number of levels.
"""

from __future__ import annotations

from bayplan.model.errors import InvalidSpec
from controller.tables import Key, Kind

PREFIX = "/bayplan/v1/"
LEADER_KEY = PREFIX + "leader"
ELEMENT_BYTES_MAX = 512
"""Longest namespace or name; etcd itself takes keys up to its request limit (1.5 MiB)."""

CLUSTER_WIDE = frozenset(
    {Kind.NODE, Kind.NODE_STATUS, Kind.TOKEN, Kind.IDENTITY, Kind.CLUSTER},
)

NO_NAMESPACE = "-"

_HEADS = {kind: f"{PREFIX}{kind.value}/" for kind in Kind}
_KINDS = {kind.value: kind for kind in Kind}


def _check(what: str, element: str) -> None:
    if not element:
        raise InvalidSpec(f"{what} is empty; give it a name")
    if "/" in element or not element.isprintable() or " " in element:
        raise InvalidSpec(f"{what} {element!r} holds a slash, a space or a control character")
    if len(element.encode()) > ELEMENT_BYTES_MAX:
        raise InvalidSpec(f"{what} {element[:40]!r}… is longer than {ELEMENT_BYTES_MAX} bytes")


def path(kind: Kind, key: Key) -> str:
    """The etcd key of an object. Raises InvalidSpec for a name that cannot be one."""
    namespace, name = key
    _check(f"the name of an object in {kind}", name)
    if kind in CLUSTER_WIDE:
        if namespace:
            raise InvalidSpec(f"{kind} are cluster-wide; leave the namespace {namespace!r} out")
        return _HEADS[kind] + name
    if kind is Kind.EVENT and not namespace:
        namespace = NO_NAMESPACE
    _check(f"the namespace of {name!r} in {kind}", namespace)
    return f"{_HEADS[kind]}{namespace}/{name}"


def parse(path: str) -> tuple[Kind, Key] | None:
    """The object a key stands for; None for keys that are no object of this version (the
    leader's, a newer version's kinds, a stranger's)."""
    if not path.startswith(PREFIX):
        return None
    match path[len(PREFIX) :].split("/"):
        case [head, name] if name:
            kind = _KINDS.get(head)
            return (kind, ("", name)) if kind in CLUSTER_WIDE and kind is not None else None
        case [head, namespace, name] if namespace and name:
            kind = _KINDS.get(head)
            if kind is Kind.EVENT and namespace == NO_NAMESPACE:
                namespace = ""
            return (kind, (namespace, name)) if kind and kind not in CLUSTER_WIDE else None
    return None
