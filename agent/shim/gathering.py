"""Moves the functions that shims and inits go through to one place of the heap.

To call a function is to count references to it and to its code, and so to write to the pages these
are in; where they were imported, between all that is never called, each is in another page.
"""

from __future__ import annotations

import _thread
import gc
import os
import sys
import time
from collections.abc import Callable
from types import CodeType, FrameType, FunctionType, ModuleType
from typing import Any

from agent.runtime.failure import RuntimeFailure

# What is larger is malloc's and not pymalloc's, which keeps pages apart by the size of what is in
# them (CPython's obmalloc.c).
_SMALL_BYTES = 512
_NOP = b"\x09\x00"
_THREAD_DEADLINE_S = 10.0


def called_by(run: Callable[[], object]) -> list[CodeType]:
    """The code that `run` goes through, in the order of its first calls."""
    codes: dict[CodeType, None] = {}

    def note(frame: FrameType, event: str, _argument: object) -> None:
        if event == "call":
            codes.setdefault(frame.f_code)

    sys.setprofile(note)
    try:
        run()
    finally:
        sys.setprofile(None)
    return list(codes)


def gather(codes: list[CodeType]) -> None:
    """Give each function of this code a copy beside the others', and put it in the function's
    place in its module and its class; who has the function itself keeps it, which is as good.

    In a thread, which malloc gives a heap of its own; it has ended when this returns, since who
    forks must be alone."""
    _thread.start_new_thread(_move, (codes,))
    deadline = time.monotonic() + _THREAD_DEADLINE_S
    while len(os.listdir("/proc/self/task")) > 1:
        if time.monotonic() > deadline:
            raise RuntimeFailure("the thread that moves code does not end")
        time.sleep(0.001)


def _move(codes: list[CodeType]) -> None:
    wanted = {id(code): place for place, code in enumerate(codes)}
    functions = [
        value
        for value in gc.get_objects()
        if type(value) is FunctionType and id(value.__code__) in wanted
    ]
    functions.sort(key=lambda function: wanted[id(function.__code__)])
    moved = {}
    for function in functions:
        function.__code__ = _enlarged(function.__code__)  # for who has the function itself
        moved[id(function)] = _copy(function)
    for owner in gc.get_objects():
        if isinstance(owner, ModuleType | type):
            _replace(owner, moved)


def _enlarged(code: CodeType) -> CodeType:
    """A copy that malloc puts behind the one before, made large enough with what is not reached."""
    missing = _SMALL_BYTES + 8 - sys.getsizeof(code)
    padding = _NOP * (-(-missing // len(_NOP)) if missing > 0 else 0)
    return code.replace(co_code=code.co_code + padding)


def _copy(function: FunctionType) -> FunctionType:
    copy = FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__,
        function.__closure__,
    )  # fmt: skip
    copy.__kwdefaults__ = function.__kwdefaults__
    copy.__dict__.update(function.__dict__)
    return copy


def _replace(owner: ModuleType | type, moved: dict[int, FunctionType]) -> None:
    for name, value in list(vars(owner).items()):
        new: Any = None
        if id(value) in moved:
            new = moved[id(value)]
        elif type(value) is staticmethod and id(value.__func__) in moved:
            new = staticmethod(moved[id(value.__func__)])
        elif type(value) is property and id(value.fget) in moved:
            new = property(moved[id(value.fget)], value.fset, value.fdel)
        if new is not None:
            setattr(owner, name, new)
