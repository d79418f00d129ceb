"""bpf(2): load a program and attach it to a cgroup."""

from __future__ import annotations

import ctypes
import os

from agent.syscalls.call import call

PROG_TYPE_CGROUP_DEVICE = 15
ATTACH_CGROUP_DEVICE = 6
_PROG_LOAD = 5
_PROG_ATTACH = 8
_ALLOW_MULTI = 2
_INSTRUCTION_BYTES = 8


class _Load(ctypes.Structure):
    """union bpf_attr for BPF_PROG_LOAD, up to prog_flags."""

    _fields_ = [
        ("prog_type", ctypes.c_uint32),
        ("insn_cnt", ctypes.c_uint32),
        ("insns", ctypes.c_uint64),
        ("license", ctypes.c_uint64),
        ("log_level", ctypes.c_uint32),
        ("log_size", ctypes.c_uint32),
        ("log_buf", ctypes.c_uint64),
        ("kern_version", ctypes.c_uint32),
        ("prog_flags", ctypes.c_uint32),
    ]


class _Attach(ctypes.Structure):
    """union bpf_attr for BPF_PROG_ATTACH."""

    _fields_ = [
        (name, ctypes.c_uint32)
        for name in ("target_fd", "attach_bpf_fd", "attach_type", "attach_flags", "replace_bpf_fd")
    ]


def load(kind: int, instructions: bytes) -> int:
    """A close-on-exec descriptor of the loaded program."""
    code = ctypes.create_string_buffer(instructions, len(instructions))
    license_ = ctypes.create_string_buffer(b"Apache-2.0")
    attributes = _Load(
        prog_type=kind,
        insn_cnt=len(instructions) // _INSTRUCTION_BYTES,
        insns=ctypes.addressof(code),
        license=ctypes.addressof(license_),
    )
    return call("bpf", _PROG_LOAD, ctypes.addressof(attributes), ctypes.sizeof(attributes))


def attach(cgroup: str, program_fd: int, kind: int) -> None:
    """Attach to the v2 cgroup directory, beside what is attached there and above; it stays as
    long as the cgroup."""
    fd = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        attributes = _Attach(
            target_fd=fd, attach_bpf_fd=program_fd, attach_type=kind, attach_flags=_ALLOW_MULTI
        )
        call("bpf", _PROG_ATTACH, ctypes.addressof(attributes), ctypes.sizeof(attributes))
    finally:
        os.close(fd)
