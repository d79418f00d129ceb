"""`linux.seccomp` -> BPF, by libseccomp (seccomp_rule_add(3), seccomp_export_bpf(3))."""

from __future__ import annotations

import ctypes
import json
import os
from collections.abc import Mapping

from agent.runtime.failure import RuntimeFailure
from agent.runtime.fields import Field

_PATH = "linux.seccomp"
ACTIONS = {
    "SCMP_ACT_KILL": 0x00000000,
    "SCMP_ACT_KILL_THREAD": 0x00000000,
    "SCMP_ACT_KILL_PROCESS": 0x80000000,
    "SCMP_ACT_TRAP": 0x00030000,
    "SCMP_ACT_ERRNO": 0x00050000,
    "SCMP_ACT_TRACE": 0x7FF00000,
    "SCMP_ACT_LOG": 0x7FFC0000,
    "SCMP_ACT_ALLOW": 0x7FFF0000,
}
FLAGS = {
    "SECCOMP_FILTER_FLAG_TSYNC": 1, "SECCOMP_FILTER_FLAG_LOG": 2,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": 4,
}  # fmt: skip
_WITH_ERRNO = ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE")
OPERATORS = {
    "SCMP_CMP_NE": 1, "SCMP_CMP_LT": 2, "SCMP_CMP_LE": 3, "SCMP_CMP_EQ": 4, "SCMP_CMP_GE": 5,
    "SCMP_CMP_GT": 6, "SCMP_CMP_MASKED_EQ": 7,
}  # fmt: skip
# AUDIT_ARCH_* tokens, seccomp_arch_add(3).
ARCHITECTURES = {
    "SCMP_ARCH_X86": 0x40000003,
    "SCMP_ARCH_X86_64": 0xC000003E,
    "SCMP_ARCH_X32": 0x4000003E,
    "SCMP_ARCH_ARM": 0x40000028,
    "SCMP_ARCH_AARCH64": 0xC00000B7,
    "SCMP_ARCH_MIPS": 0x00000008,
    "SCMP_ARCH_MIPS64": 0x80000008,
    "SCMP_ARCH_MIPS64N32": 0xA0000008,
    "SCMP_ARCH_MIPSEL": 0x40000008,
    "SCMP_ARCH_MIPSEL64": 0xC0000008,
    "SCMP_ARCH_MIPSEL64N32": 0xE0000008,
    "SCMP_ARCH_PPC": 0x00000014,
    "SCMP_ARCH_PPC64": 0x80000015,
    "SCMP_ARCH_PPC64LE": 0xC0000015,
    "SCMP_ARCH_S390": 0x00000016,
    "SCMP_ARCH_S390X": 0x80000016,
    "SCMP_ARCH_PARISC": 0x0000000F,
    "SCMP_ARCH_PARISC64": 0x8000000F,
    "SCMP_ARCH_RISCV64": 0xC00000F3,
}
_EPERM = 1
_EEXIST = 17
_ATTRIBUTE_OPTIMIZE = 8
_BINARY_TREE = 2
_UNKNOWN_SYSCALL = -1
_PROGRAM_MAX_BYTES = 8 * 4096


class _Compare(ctypes.Structure):
    """struct scmp_arg_cmp."""

    _fields_ = [
        ("argument", ctypes.c_uint),
        ("operator", ctypes.c_int),
        ("first", ctypes.c_uint64),
        ("second", ctypes.c_uint64),
    ]


def canonical(section: Mapping[str, object]) -> str:
    """What a compiled program is cached by. Not a digest: hashlib brings OpenSSL, half a MiB that
    each fork of the zygote would copy the page tables of."""
    return json.dumps(section, sort_keys=True, separators=(",", ":"))


def flags(section: Mapping[str, object]) -> int:
    """seccomp(2) flags of the section."""
    found = 0
    for member in Field(section, _PATH).get("flags").items():
        if member.text() not in FLAGS:
            raise member.fail(f'"{member.text()}" is not supported by this runtime')
        found |= FLAGS[member.text()]
    return found


def compile_(section: Mapping[str, object]) -> bytes:
    """The section as a BPF program. Takes about 15 ms for the default profile: do it once.

    Names that no architecture here knows are skipped, as runc does; anything else that cannot
    be expressed raises RuntimeFailure."""
    root = Field(section, _PATH)
    for name in ("listenerPath", "listenerMetadata"):
        if root.get(name).value:
            raise root.get(name).fail("is not supported: no notifications to a listener")
    library = _library()
    context = library.seccomp_init(_action(root, "defaultAction", "defaultErrnoRet"))
    if not context:
        raise root.get("defaultAction").fail("libseccomp refused it")
    try:
        _add_architectures(library, context, root)
        if hasattr(library, "seccomp_attr_set"):
            library.seccomp_attr_set(context, _ATTRIBUTE_OPTIMIZE, _BINARY_TREE)
        default = root.get("defaultAction").text()
        for rule in root.get("syscalls").items():
            _add_rule(library, context, rule, default)
        return _export(library, context)
    finally:
        library.seccomp_release(context)


def _library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL("libseccomp.so.2")
    except OSError as error:
        raise RuntimeFailure("libseccomp.so.2 is not installed", _PATH) from error
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_init.argtypes = [ctypes.c_uint32]
    library.seccomp_release.argtypes = [ctypes.c_void_p]
    library.seccomp_arch_add.argtypes = [ctypes.c_void_p, ctypes.c_uint32]
    library.seccomp_attr_set.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32]
    library.seccomp_syscall_resolve_name.argtypes = [ctypes.c_char_p]
    library.seccomp_export_bpf.argtypes = [ctypes.c_void_p, ctypes.c_int]
    library.seccomp_rule_add_array.argtypes = [
        ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint, ctypes.c_void_p,
    ]  # fmt: skip
    return library


def _action(field: Field, action: str, errno: str) -> int:
    name = field.get(action).required_text()
    if name not in ACTIONS:
        what = "notifies a listener, which" if name == "SCMP_ACT_NOTIFY" else f'"{name}"'
        raise field.get(action).fail(f"{what} is not supported by this runtime")
    value = field.get(errno).number(_EPERM, low=0, high=0xFFFF)
    return ACTIONS[name] | (value if name in _WITH_ERRNO else 0)


def _add_architectures(library: ctypes.CDLL, context: int, root: Field) -> None:
    for member in root.get("architectures").items():
        token = ARCHITECTURES.get(member.text())
        if token is None:
            raise member.fail(f'"{member.text()}" is not a known architecture')
        result = library.seccomp_arch_add(context, token)
        if result not in (0, -_EEXIST):
            raise member.fail(f"libseccomp refused it: {os.strerror(-result)}")


def _add_rule(library: ctypes.CDLL, context: int, rule: Field, default: str) -> None:
    action = _action(rule, "action", "errnoRet")
    if rule.get("action").text() == default and not rule.get("errnoRet").present:
        return
    compares = [
        _Compare(
            arg.get("index").number(low=0, high=5),
            _operator(arg.get("op")),
            arg.get("value").number(low=0),
            arg.get("valueTwo").number(low=0),
        )
        for arg in rule.get("args").items()
    ]
    array = (_Compare * max(len(compares), 1))(*compares)
    for name in rule.get("names").items():
        number = library.seccomp_syscall_resolve_name(name.required_text().encode())
        if number == _UNKNOWN_SYSCALL:
            continue
        result = library.seccomp_rule_add_array(
            context, action, number, len(compares), ctypes.addressof(array)
        )
        if result not in (0, -_EEXIST):
            raise name.fail(f"libseccomp refused the rule: {os.strerror(-result)}")


def _operator(field: Field) -> int:
    name = field.required_text()
    if name not in OPERATORS:
        raise field.fail(f'"{name}" is not an operator of seccomp_rule_add(3)')
    return OPERATORS[name]


def _export(library: ctypes.CDLL, context: int) -> bytes:
    fd = os.memfd_create("bayplan-seccomp")
    try:
        result = library.seccomp_export_bpf(context, fd)
        if result:
            raise RuntimeFailure(f"libseccomp cannot compile it: {os.strerror(-result)}", _PATH)
        size = os.fstat(fd).st_size
        if size > _PROGRAM_MAX_BYTES:
            raise RuntimeFailure("compiles to more than 4096 BPF instructions", _PATH)
        return os.pread(fd, size, 0)
    finally:
        os.close(fd)
