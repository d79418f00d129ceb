"""What a container uses, read from its control files (cgroup-v1/, cgroup-v2.rst of the kernel)."""

from __future__ import annotations

import os
from dataclasses import dataclass

from agent.runtime.cgroups.hierarchy import UNIFIED, Cgroup, Kind

_TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
_UNLIMITED_BYTES = 1 << 62
_READ_MAX_BYTES = 16384


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """Counters since the cgroup was made; limits 0: none. `memory_working_set_bytes` is usage
    less inactive page cache, what Kubernetes evicts by. `*_stalled_ns`: how long at least one of
    the tasks waited for it (psi.rst, "some"); 0 on v1, which does not tell."""

    cpu_ns: int = 0
    cpu_user_ns: int = 0
    cpu_system_ns: int = 0
    cpu_periods: int = 0
    cpu_throttled_periods: int = 0
    cpu_throttled_ns: int = 0
    memory_bytes: int = 0
    memory_working_set_bytes: int = 0
    memory_anonymous_bytes: int = 0
    memory_file_bytes: int = 0
    memory_swap_bytes: int = 0
    memory_limit_bytes: int = 0
    memory_peak_bytes: int = 0
    pids: int = 0
    pids_limit: int = 0
    io_read_bytes: int = 0
    io_write_bytes: int = 0
    io_reads: int = 0
    io_writes: int = 0
    oom_kills: int = 0
    cpu_stalled_ns: int = 0
    memory_stalled_ns: int = 0
    io_stalled_ns: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pressure:
    """Per cent of the last ten seconds in which some process of the cgroup waited (psi.rst of the
    kernel); None where the kernel does not say."""

    cpu: float | None = None
    memory: float | None = None
    io: float | None = None


def pressure(cgroup: Cgroup) -> Pressure:
    """Kept in the v2 tree alone, also where the controllers are in v1's."""
    return Pressure(
        cpu=_some_avg10(cgroup, "cpu"),
        memory=_some_avg10(cgroup, "memory"),
        io=_some_avg10(cgroup, "io"),
    )


def stats(cgroup: Cgroup) -> Stats:
    """Read it all; a controller or file that is not there counts as 0. Under 1 ms."""
    return _stats_v2(cgroup) if cgroup.kind is Kind.V2 else _stats_v1(cgroup)


def oom_kills(cgroup: Cgroup) -> int:
    """How many processes of the cgroup the kernel killed for want of memory."""
    name = "memory.events" if cgroup.kind is Kind.V2 else "memory.oom_control"
    return _table(cgroup, "memory", name).get("oom_kill", 0)


def oom_killed(cgroup: Cgroup) -> bool:
    """True where the kernel killed at least one process of it for want of memory."""
    return oom_kills(cgroup) > 0


def _stats_v1(cgroup: Cgroup) -> Stats:
    cpu = _table(cgroup, "cpu", "cpu.stat")
    split = _table(cgroup, "cpuacct", "cpuacct.stat")
    memory = _table(cgroup, "memory", "memory.stat")
    usage = _number(cgroup, "memory", "memory.usage_in_bytes")
    limit = _number(cgroup, "memory", "memory.limit_in_bytes")
    io_bytes = _by_operation(_text(cgroup, "blkio", "blkio.throttle.io_service_bytes_recursive"))
    io_count = _by_operation(_text(cgroup, "blkio", "blkio.throttle.io_serviced_recursive"))
    return Stats(
        cpu_ns=_number(cgroup, "cpuacct", "cpuacct.usage"),
        cpu_user_ns=split.get("user", 0) * _TICK_NS,
        cpu_system_ns=split.get("system", 0) * _TICK_NS,
        cpu_periods=cpu.get("nr_periods", 0),
        cpu_throttled_periods=cpu.get("nr_throttled", 0),
        cpu_throttled_ns=cpu.get("throttled_time", 0),
        memory_bytes=usage,
        memory_working_set_bytes=max(usage - memory.get("total_inactive_file", 0), 0),
        memory_anonymous_bytes=memory.get("total_rss", 0),
        memory_file_bytes=memory.get("total_cache", 0),
        memory_swap_bytes=memory.get("total_swap", 0),
        memory_limit_bytes=limit if limit < _UNLIMITED_BYTES else 0,
        memory_peak_bytes=_number(cgroup, "memory", "memory.max_usage_in_bytes"),
        pids=_number(cgroup, "pids", "pids.current"),
        pids_limit=_number(cgroup, "pids", "pids.max"),
        io_read_bytes=io_bytes.get("Read", 0),
        io_write_bytes=io_bytes.get("Write", 0),
        io_reads=io_count.get("Read", 0),
        io_writes=io_count.get("Write", 0),
        oom_kills=oom_kills(cgroup),
    )


def _stats_v2(cgroup: Cgroup) -> Stats:
    cpu = _table(cgroup, "cpu", "cpu.stat")
    memory = _table(cgroup, "memory", "memory.stat")
    usage = _number(cgroup, "memory", "memory.current")
    io = _io_stat(_text(cgroup, "io", "io.stat"))
    return Stats(
        cpu_ns=cpu.get("usage_usec", 0) * 1000,
        cpu_user_ns=cpu.get("user_usec", 0) * 1000,
        cpu_system_ns=cpu.get("system_usec", 0) * 1000,
        cpu_periods=cpu.get("nr_periods", 0),
        cpu_throttled_periods=cpu.get("nr_throttled", 0),
        cpu_throttled_ns=cpu.get("throttled_usec", 0) * 1000,
        memory_bytes=usage,
        memory_working_set_bytes=max(usage - memory.get("inactive_file", 0), 0),
        memory_anonymous_bytes=memory.get("anon", 0),
        memory_file_bytes=memory.get("file", 0),
        memory_swap_bytes=_number(cgroup, "memory", "memory.swap.current"),
        memory_limit_bytes=_number(cgroup, "memory", "memory.max"),
        memory_peak_bytes=_number(cgroup, "memory", "memory.peak"),
        pids=_number(cgroup, "pids", "pids.current"),
        pids_limit=_number(cgroup, "pids", "pids.max"),
        io_read_bytes=io.get("rbytes", 0),
        io_write_bytes=io.get("wbytes", 0),
        io_reads=io.get("rios", 0),
        io_writes=io.get("wios", 0),
        oom_kills=oom_kills(cgroup),
        cpu_stalled_ns=_stalled_ns(cgroup, "cpu"),
        memory_stalled_ns=_stalled_ns(cgroup, "memory"),
        io_stalled_ns=_stalled_ns(cgroup, "io"),
    )


def _some_avg10(cgroup: Cgroup, resource: str) -> float | None:
    value = _waited(cgroup, resource).get("avg10")
    return float(value) if value else None


def _stalled_ns(cgroup: Cgroup, resource: str) -> int:
    return int(_waited(cgroup, resource).get("total", "0")) * 1000


def _waited(cgroup: Cgroup, resource: str) -> dict[str, str]:
    """Of `some avg10=0.00 avg60=0.00 avg300=0.00 total=MICROSECONDS`; nothing where the kernel was
    built or booted without."""
    try:
        text = _text(cgroup, UNIFIED, f"{resource}.pressure")
    except OSError:  # EOPNOTSUPP: psi=0
        return {}
    words = text.partition("\n")[0].split()
    return dict(word.partition("=")[::2] for word in words[1:]) if words[:1] == ["some"] else {}


def _text(cgroup: Cgroup, controller: str, name: str) -> str:
    directory = cgroup.directory(controller)
    if directory is None:
        return ""
    try:
        fd = os.open(f"{directory}/{name}", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return ""
    try:
        return os.read(fd, _READ_MAX_BYTES).decode("ascii")
    finally:
        os.close(fd)


def _number(cgroup: Cgroup, controller: str, name: str) -> int:
    text = _text(cgroup, controller, name).strip()
    return int(text) if text and text != "max" else 0


def _table(cgroup: Cgroup, controller: str, name: str) -> dict[str, int]:
    """`key number` lines."""
    table = {}
    for line in _text(cgroup, controller, name).splitlines():
        key, _, value = line.partition(" ")
        if value.isdigit():
            table[key] = int(value)
    return table


def _by_operation(text: str) -> dict[str, int]:
    """`8:0 Read 123` lines, summed over devices."""
    sums: dict[str, int] = {}
    for line in text.splitlines():
        parts = line.split()
        if len(parts) == 3:
            sums[parts[1]] = sums.get(parts[1], 0) + int(parts[2])
    return sums


def _io_stat(text: str) -> dict[str, int]:
    """`8:0 rbytes=1 wbytes=2 …` lines, summed over devices."""
    sums: dict[str, int] = {}
    for line in text.splitlines():
        for pair in line.split()[1:]:
            key, _, value = pair.partition("=")
            sums[key] = sums.get(key, 0) + int(value)
    return sums
