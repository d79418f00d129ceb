"""Device rules -> the eBPF program that decides on cgroup v2 (struct bpf_cgroup_dev_ctx).

The last rule that matches decides, so the program tries them from the last to the first. As in the
v1 controller, a rule allows a request whose kinds of access it holds all of, and denies one it
holds any of. A request no rule matches is allowed.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from agent.runtime.spec import DeviceRule

_KINDS = {"b": 1, "c": 2}  # BPF_DEVCG_DEV_*
_ACCESS = {"m": 1, "r": 2, "w": 4}  # BPF_DEVCG_ACC_*
_ALL_ACCESS = 7

_LOAD_U32 = 0x61
_AND = 0x57
_SHIFT_RIGHT = 0x77
_MOVE = 0xBF
_SET = 0xB7
_JUMP_EQUAL = 0x15
_JUMP_UNEQUAL = 0x55
_JUMP_UNEQUAL_REGISTER = 0x5D
_EXIT = 0x95

_RESULT, _CONTEXT, _TYPE, _REQUESTED, _MAJOR, _MINOR = range(6)
_SCRATCH = _CONTEXT  # not needed once everything is loaded

# (code, destination, source, offset, immediate)
_Instruction = tuple[int, int, int, int, int]


def compile_(rules: Sequence[DeviceRule]) -> bytes:
    """The program, eight bytes an instruction."""
    program: list[_Instruction] = [
        (_LOAD_U32, _TYPE, _CONTEXT, 0, 0),
        (_MOVE, _REQUESTED, _TYPE, 0, 0),
        (_AND, _TYPE, 0, 0, 0xFFFF),
        (_SHIFT_RIGHT, _REQUESTED, 0, 0, 16),
        (_LOAD_U32, _MAJOR, _CONTEXT, 4, 0),
        (_LOAD_U32, _MINOR, _CONTEXT, 8, 0),
    ]
    for rule in reversed(rules):
        program.extend(_rule(rule))
        if rule.kind == "a":
            break  # It matches everything; the verifier refuses code that nothing reaches.
    else:
        program.extend(_decide(True))
    return b"".join(
        struct.pack("<BBhi", code, destination | source << 4, offset, immediate)
        for code, destination, source, offset, immediate in program
    )


def _decide(allow: bool) -> list[_Instruction]:
    return [(_SET, _RESULT, 0, 0, int(allow)), (_EXIT, 0, 0, 0, 0)]


def _rule(rule: DeviceRule) -> list[_Instruction]:
    """The tests of one rule, each of which jumps past its decision, and the decision."""
    access = sum(_ACCESS[letter] for letter in set(rule.access))
    tests: list[_Instruction] = []
    if rule.kind != "a":
        tests.append((_JUMP_UNEQUAL, _TYPE, 0, 0, _KINDS[rule.kind]))
        if access != _ALL_ACCESS:
            tests.append((_MOVE, _SCRATCH, _REQUESTED, 0, 0))
            tests.append((_AND, _SCRATCH, 0, 0, access))
            if rule.allow:
                tests.append((_JUMP_UNEQUAL_REGISTER, _SCRATCH, _REQUESTED, 0, 0))
            else:
                tests.append((_JUMP_EQUAL, _SCRATCH, 0, 0, 0))
        for register, number in ((_MAJOR, rule.major), (_MINOR, rule.minor)):
            if number is not None:
                tests.append((_JUMP_UNEQUAL, register, 0, 0, number))
    jumps = (_JUMP_UNEQUAL, _JUMP_UNEQUAL_REGISTER, _JUMP_EQUAL)
    placed: list[_Instruction] = []
    for index, (code, destination, source, _, immediate) in enumerate(tests):
        past = len(tests) - index + 1 if code in jumps else 0
        placed.append((code, destination, source, past, immediate))
    return placed + _decide(rule.allow)
