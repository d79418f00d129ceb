"""`linux.resources` -> control files, for a new cgroup or a running one."""

from __future__ import annotations

import os
from collections.abc import Sequence

from agent.runtime.cgroups import device_program, others
from agent.runtime.cgroups.files import or_max as _or_max
from agent.runtime.cgroups.files import set_ as _set
from agent.runtime.cgroups.files import write_all as _write_all
from agent.runtime.cgroups.hierarchy import UNIFIED, Cgroup, Kind, read
from agent.runtime.failure import RuntimeFailure
from agent.runtime.spec import DeviceRule, Resources
from agent.syscalls import bpf

_PERIOD_US = 100_000

# What every container may use whatever the rules say (OCI runtime spec, default devices), and
# creating nodes, which opens nothing by itself.
DEFAULT_DEVICE_RULES = (
    DeviceRule(allow=True, kind="c", access="m"),
    DeviceRule(allow=True, kind="b", access="m"),
    *(
        DeviceRule(allow=True, kind="c", major=major, minor=minor)
        for major, minor in (
            (1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2), (136, None),
        )
    ),
)  # fmt: skip


def apply(cgroup: Cgroup, resources: Resources, *, new: bool = True) -> None:
    """Write every limit that is set. `new` also sets the device rules, which an update of a
    running container leaves alone. RuntimeFailure names the field the kernel refused."""
    if cgroup.kind is Kind.V2:
        _apply_v2(cgroup, resources)
        if new:
            _devices_v2(cgroup, resources.devices)
    else:
        _apply_v1(cgroup, resources)
        if new:
            _devices_v1(cgroup, resources.devices)


def _apply_v1(cgroup: Cgroup, resources: Resources) -> None:
    if resources.unified:
        raise RuntimeFailure(
            "names files of cgroup v2, which this host does not have its controllers in",
            "linux.resources.unified",
        )
    _write_all(
        cgroup,
        ("cpu", "cpu.shares", resources.cpu_shares or None, "cpu.shares"),
        ("cpu", "cpu.idle", resources.cpu_idle, "cpu.idle"),
        ("cpu", "cpu.cfs_period_us", resources.cpu_period_us or None, "cpu.period"),
        ("cpu", "cpu.cfs_quota_us", resources.cpu_quota_us or None, "cpu.quota"),
        ("cpu", "cpu.cfs_burst_us", resources.cpu_burst_us, "cpu.burst"),
        ("cpu", "cpu.rt_period_us", resources.cpu_realtime_period_us or None,
         "cpu.realtimePeriod"),
        ("cpu", "cpu.rt_runtime_us", resources.cpu_realtime_runtime_us or None,
         "cpu.realtimeRuntime"),
    )  # fmt: skip
    _memory_v1(cgroup, resources)
    if resources.pids_limit:
        _set(cgroup, "pids", "pids.max", _or_max(resources.pids_limit), "pids.limit")
    _cpuset(cgroup, resources)
    others.apply_v1(cgroup, resources)


def _memory_v1(cgroup: Cgroup, resources: Resources) -> None:
    """memory+swap may never lie below memory: raised first, lowered last."""
    limit, swap = resources.memory_limit_bytes, resources.memory_swap_bytes
    steps = []
    if limit is not None:
        steps.append(("memory.limit_in_bytes", limit, "memory.limit"))
    if swap is not None:
        steps.append(("memory.memsw.limit_in_bytes", swap, "memory.swap"))
    if limit is not None and swap is not None and _raises_memory(cgroup, swap):
        steps.reverse()
    for name, value, field in steps:
        _set(cgroup, "memory", name, value, field)
    if resources.memory_reservation_bytes is not None:
        value = resources.memory_reservation_bytes
        _set(cgroup, "memory", "memory.soft_limit_in_bytes", value, "memory.reservation")
    off, hierarchy = resources.memory_oom_killer_off, resources.memory_hierarchy
    _write_all(
        cgroup,
        ("memory", "memory.kmem.limit_in_bytes", resources.memory_kernel_bytes or None,
         "memory.kernel"),
        ("memory", "memory.kmem.tcp.limit_in_bytes", resources.memory_kernel_tcp_bytes or None,
         "memory.kernelTCP"),
        ("memory", "memory.swappiness", resources.memory_swappiness, "memory.swappiness"),
        ("memory", "memory.oom_control", int(off) or None, "memory.disableOOMKiller"),
        ("memory", "memory.use_hierarchy", None if hierarchy is None else int(hierarchy),
         "memory.useHierarchy"),
    )  # fmt: skip


def _raises_memory(cgroup: Cgroup, swap: int) -> bool:
    directory = cgroup.directory("memory")
    if directory is None:
        return False
    return swap < 0 or swap > int(read(directory, "memory.memsw.limit_in_bytes"))


def _devices_v1(cgroup: Cgroup, rules: Sequence[DeviceRule]) -> None:
    """No rules given: nothing is limited, as with runc's empty list being the caller's wish."""
    if not rules:
        return
    for rule in (*rules, *DEFAULT_DEVICE_RULES):
        name = "devices.allow" if rule.allow else "devices.deny"
        _set(cgroup, "devices", name, rule.line, "devices")


def _devices_v2(cgroup: Cgroup, rules: Sequence[DeviceRule]) -> None:
    """A program in place of the v1 controller's files (cgroup-v2.rst, "Device controller")."""
    if not rules:
        return
    code = device_program.compile_((*rules, *DEFAULT_DEVICE_RULES))
    try:
        program = bpf.load(bpf.PROG_TYPE_CGROUP_DEVICE, code)
        try:
            bpf.attach(cgroup.directories[UNIFIED], program, bpf.ATTACH_CGROUP_DEVICE)
        finally:
            os.close(program)
    except OSError as error:
        raise RuntimeFailure(
            f"cannot limit devices by a BPF program: {error.strerror}", "linux.resources.devices"
        ) from error


def _apply_v2(cgroup: Cgroup, resources: Resources) -> None:
    _refuse_v1_only(resources)
    if resources.cpu_shares:
        weight = 1 + (max(resources.cpu_shares, 2) - 2) * 9999 // 262142
        _set(cgroup, "cpu", "cpu.weight", weight, "cpu.shares")
    if resources.cpu_quota_us or resources.cpu_period_us:
        given = resources.cpu_quota_us or _quota_now(cgroup)
        quota = "max" if given < 0 else given
        period = resources.cpu_period_us or _PERIOD_US
        _set(cgroup, "cpu", "cpu.max", f"{quota} {period}", "cpu.quota")
    _write_all(
        cgroup,
        ("cpu", "cpu.max.burst", resources.cpu_burst_us, "cpu.burst"),
        ("cpu", "cpu.idle", resources.cpu_idle, "cpu.idle"),
    )
    _memory_v2(cgroup, resources)
    if resources.pids_limit:
        _set(cgroup, "pids", "pids.max", _or_max(resources.pids_limit), "pids.limit")
    _cpuset(cgroup, resources)
    others.apply_v2(cgroup, resources)
    for name, value in resources.unified.items():
        if "/" in name or name in ("cgroup.procs", "cgroup.threads", "cgroup.kill"):
            raise RuntimeFailure(f'"{name}" is not a limit', "linux.resources.unified")
        _set(cgroup, "unified", name, value, "unified")


def _quota_now(cgroup: Cgroup) -> int:
    """The quota a cgroup has, -1 for none: what an update of the period alone keeps."""
    directory = cgroup.directory("cpu")
    text = read(directory, "cpu.max").split()[0] if directory else "max"
    return -1 if text == "max" else int(text)


def _refuse_v1_only(resources: Resources) -> None:
    """What cgroup v2 has no file for."""
    asked = {
        "cpu.realtimeRuntime": resources.cpu_realtime_runtime_us,
        "cpu.realtimePeriod": resources.cpu_realtime_period_us,
        "memory.kernel": resources.memory_kernel_bytes,
        "memory.kernelTCP": resources.memory_kernel_tcp_bytes,
        "memory.swappiness": resources.memory_swappiness,
        "memory.disableOOMKiller": resources.memory_oom_killer_off,
        "memory.useHierarchy": resources.memory_hierarchy is False,
        "network.classID": resources.network_class,
        "network.priorities": resources.network_priorities,
    }
    for path, value in asked.items():
        if value:
            raise RuntimeFailure("does not exist on cgroup v2", f"linux.resources.{path}")


def _memory_v2(cgroup: Cgroup, resources: Resources) -> None:
    limit, swap = resources.memory_limit_bytes, resources.memory_swap_bytes
    if limit is not None and resources.memory_check_before_update:
        used = int(read(cgroup.directories[UNIFIED], "memory.current"))
        if 0 <= limit < used:
            raise RuntimeFailure(
                f"{limit} is below the {used} bytes in use", "linux.resources.memory.limit"
            )
    if limit is not None:
        _set(cgroup, "memory", "memory.max", _or_max(limit), "memory.limit")
    if swap is not None:
        only_swap = swap if swap < 0 else swap - max(limit or 0, 0)
        if limit is None or only_swap < -1:
            raise RuntimeFailure(
                "needs memory.limit, and not less than it", "linux.resources.memory.swap"
            )
        _set(cgroup, "memory", "memory.swap.max", _or_max(only_swap), "memory.swap")
    if resources.memory_reservation_bytes is not None:
        low = _or_max(resources.memory_reservation_bytes)
        _set(cgroup, "memory", "memory.low", low, "memory.reservation")


def _cpuset(cgroup: Cgroup, resources: Resources) -> None:
    if resources.cpuset_cpus:
        _set(cgroup, "cpuset", "cpuset.cpus", resources.cpuset_cpus, "cpu.cpus")
    if resources.cpuset_mems:
        _set(cgroup, "cpuset", "cpuset.mems", resources.cpuset_mems, "cpu.mems")
