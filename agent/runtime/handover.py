"""An Init as bytes, for a process that is to be its parent and did not make it.

Descriptors do not travel in bytes: the control socket and stdio are put in again by the receiver.
The two processes run the same code, both forked from one that had loaded it.

A value of the specification goes as a list: the number of its type, then its fields. Not pickle,
which asks a dataclass for its fields one by one and so writes to three hundred pages that the
receiver would share with the zygote until it does.
"""

from __future__ import annotations

import marshal
from dataclasses import fields, replace
from operator import attrgetter
from socket import SocketType
from typing import Any

from agent.runtime.cgroups import Cgroup, Kind
from agent.runtime.init import Init
from agent.runtime.options import Options
from agent.runtime.spec import (
    Capabilities,
    Config,
    Device,
    Hook,
    Hooks,
    IdMapping,
    Linux,
    Mount,
    Process,
    Resources,
    Scheduler,
    User,
)
from agent.runtime.stdio import Stdio

_TYPES: tuple[type, ...] = (
    Init, Config, Process, User, Capabilities, Scheduler, Mount, Options, Linux, Resources,
    IdMapping, Device, Hooks, Hook, Cgroup,
)  # fmt: skip
_NAMES = tuple(tuple(field.name for field in fields(kind)) for kind in _TYPES)
_GETTERS = tuple(attrgetter(*names) for names in _NAMES)
_NUMBERS = {kind: number for number, kind in enumerate(_TYPES)}
_SEQUENCE = -1
_KIND = -2
_PLAIN = frozenset((str, bytes, int, bool, float, type(None), frozenset))
# Of each type what writes its fields, made here side by side: to go by the names would write to
# each name and each descriptor, which lie all over the heap.
_SETTERS = tuple(
    tuple(vars(kind)[name].__set__ for name in names)
    for kind, names in zip(_TYPES, _NAMES, strict=True)
)
_new = object.__new__


def pack(init: Init) -> bytes:
    """Everything but descriptors, and but what only the caller needs: resource limits, and the
    filter's source, which it has compiled."""
    config = init.config
    linux = replace(config.linux, seccomp=None, resources=_NOTHING)
    process = replace(config.process, rlimits=())
    config = replace(config, linux=linux, process=process)
    return marshal.dumps(_flatten(replace(init, config=config, stdio=Stdio())))


def unpack(data: bytes, control: SocketType, stdio: Stdio) -> Init:
    """The Init with the descriptors it has here."""
    init = _build(marshal.loads(data))
    if not isinstance(init, Init):
        raise TypeError(f"not an Init but {type(init).__name__}")
    init.control = control
    init.stdio = stdio
    return init


_NOTHING = Resources()


def _flatten(value: object) -> Any:
    """What marshal takes, with lists only where `_build` has something to do."""
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind in _NUMBERS:
        number = _NUMBERS[kind]
        fields_ = _GETTERS[number](value)
        return [number, *[i if type(i) in _PLAIN else _flatten(i) for i in fields_]]
    if isinstance(value, tuple | list):
        given = [i if type(i) in _PLAIN else _flatten(i) for i in value]
        return [_SEQUENCE, *given] if any(type(i) is list for i in given) else tuple(given)
    if isinstance(value, dict):
        return {key: _flatten(item) for key, item in value.items()}
    if isinstance(value, Kind):
        return [_KIND, str(value)]
    if isinstance(value, SocketType | Stdio):
        return None
    raise TypeError(f"a container's init is not told of {kind.__name__}")


def _build(value: Any) -> Any:
    if type(value) is not list:
        return value
    number = value[0]
    if number == _SEQUENCE:
        return tuple([_build(item) for item in value[1:]])
    if number == _KIND:
        return Kind(value[1])
    built: object = _new(_TYPES[number])
    for put, item in zip(_SETTERS[number], value[1:], strict=True):
        put(built, _build(item) if type(item) is list else item)
    return built
