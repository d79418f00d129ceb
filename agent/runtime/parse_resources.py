"""`linux.resources` -> limits, of config.json or of an update."""

from __future__ import annotations

import re

from agent.runtime.fields import Field
from agent.runtime.spec import BlockIo, DeviceNumber, DeviceRule, Resources

THROTTLES = (
    "throttleReadBpsDevice", "throttleWriteBpsDevice", "throttleReadIOPSDevice",
    "throttleWriteIOPSDevice",
)  # fmt: skip
_PAGE_SIZE = re.compile(r"[1-9][0-9]*[KMG]B")
_NUMBER_MAX = 2**32 - 1


def resources(field: Field) -> Resources:
    """Read a `resources` object; RuntimeFailure names the field that is wrong."""
    cpu, memory, network = field.get("cpu"), field.get("memory"), field.get("network")
    return Resources(
        cpu_shares=cpu.get("shares").optional_number(low=0, high=262144),
        cpu_quota_us=cpu.get("quota").optional_number(low=-1),
        cpu_period_us=cpu.get("period").optional_number(low=0, high=1_000_000),
        cpu_burst_us=cpu.get("burst").optional_number(low=0),
        cpu_realtime_runtime_us=cpu.get("realtimeRuntime").optional_number(low=-1),
        cpu_realtime_period_us=cpu.get("realtimePeriod").optional_number(low=0),
        cpu_idle=cpu.get("idle").optional_number(low=0, high=1),
        cpuset_cpus=cpu.get("cpus").text(),
        cpuset_mems=cpu.get("mems").text(),
        memory_limit_bytes=memory.get("limit").optional_number(low=-1),
        memory_reservation_bytes=memory.get("reservation").optional_number(low=-1),
        memory_swap_bytes=memory.get("swap").optional_number(low=-1),
        memory_kernel_bytes=memory.get("kernel").optional_number(low=-1),
        memory_kernel_tcp_bytes=memory.get("kernelTCP").optional_number(low=-1),
        memory_swappiness=memory.get("swappiness").optional_number(low=0, high=200),
        memory_oom_killer_off=memory.get("disableOOMKiller").flag(),
        memory_hierarchy=(
            memory.get("useHierarchy").flag() if memory.get("useHierarchy").present else None
        ),
        memory_check_before_update=memory.get("checkBeforeUpdate").flag(),
        pids_limit=field.get("pids").get("limit").optional_number(low=-1),
        block_io=_block_io(field.get("blockIO")) if field.get("blockIO").value else None,
        hugepages=_hugepages(field.get("hugepageLimits")),
        network_class=network.get("classID").optional_number(low=0, high=_NUMBER_MAX),
        network_priorities={
            p.get("name").required_text(): p.get("priority").number(low=0, high=_NUMBER_MAX)
            for p in network.get("priorities").items()
        },
        rdma={name: _rdma(member) for name, member in field.get("rdma").members()},
        devices=tuple(_device_rule(d) for d in field.get("devices").items()),
        unified=field.get("unified").mapping(),
    )


def _block_io(field: Field) -> BlockIo:
    return BlockIo(
        weight=field.get("weight").optional_number(low=0, high=1000) or None,
        leaf_weight=field.get("leafWeight").optional_number(low=0, high=1000) or None,
        weight_device=_numbers(field.get("weightDevice"), "weight"),
        leaf_weight_device=_numbers(field.get("weightDevice"), "leafWeight"),
        throttle={
            name: _numbers(field.get(name), "rate") for name in THROTTLES if field.get(name).value
        },
    )


def _numbers(field: Field, value: str) -> tuple[DeviceNumber, ...]:
    return tuple(
        DeviceNumber(
            major=member.get("major").number(low=0, high=2**12 - 1),
            minor=member.get("minor").number(low=0, high=2**20 - 1),
            value=member.get(value).number(low=0),
        )
        for member in field.items()
        if member.get(value).present or value == "rate"
    )


def _hugepages(field: Field) -> dict[str, int]:
    found: dict[str, int] = {}
    for member in field.items():
        size = member.get("pageSize").required_text()
        if not _PAGE_SIZE.fullmatch(size):
            raise member.get("pageSize").fail(f'"{size}" is not a page size, like 2MB')
        found[size] = member.get("limit").number(low=0)
    return found


def _rdma(field: Field) -> tuple[int | None, int | None]:
    handles = field.get("hcaHandles").optional_number(low=0, high=_NUMBER_MAX)
    objects = field.get("hcaObjects").optional_number(low=0, high=_NUMBER_MAX)
    if handles is None and objects is None:
        raise field.fail("needs hcaHandles or hcaObjects")
    return handles, objects


def _device_rule(field: Field) -> DeviceRule:
    major, minor = field.get("major"), field.get("minor")
    access = field.get("access").text("rwm")
    if not access or set(access) - set("rwm"):
        raise field.get("access").fail(f'"{access}" is not made of r, w and m')
    numbers = [n.optional_number(low=-1, high=2**32) for n in (major, minor)]
    return DeviceRule(
        allow=field.get("allow").flag(),
        kind=field.get("type").choice("a", "b", "c", default="a"),
        major=None if numbers[0] == -1 else numbers[0],
        minor=None if numbers[1] == -1 else numbers[1],
        access=access,
    )
