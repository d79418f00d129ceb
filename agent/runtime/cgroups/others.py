"""Block I/O, huge pages, network classes and RDMA: limits few containers have."""

from __future__ import annotations

import os
from collections.abc import Sequence

from agent.runtime.cgroups.files import set_
from agent.runtime.cgroups.hierarchy import Cgroup
from agent.runtime.failure import RuntimeFailure
from agent.runtime.spec import BlockIo, DeviceNumber, Resources

# config.json's name: file of v1, key of v2's io.max.
_THROTTLES = {
    "throttleReadBpsDevice": ("blkio.throttle.read_bps_device", "rbps"),
    "throttleWriteBpsDevice": ("blkio.throttle.write_bps_device", "wbps"),
    "throttleReadIOPSDevice": ("blkio.throttle.read_iops_device", "riops"),
    "throttleWriteIOPSDevice": ("blkio.throttle.write_iops_device", "wiops"),
}


def apply_v1(cgroup: Cgroup, resources: Resources) -> None:
    """Write those that are set."""
    if resources.block_io:
        _block_io_v1(cgroup, resources.block_io)
    for size, limit in resources.hugepages.items():
        set_(cgroup, "hugetlb", f"hugetlb.{size}.limit_in_bytes", limit, "hugepageLimits")
    if resources.network_class is not None:
        value = resources.network_class
        set_(cgroup, "net_cls", "net_cls.classid", value, "network.classID")
    for interface, priority in resources.network_priorities.items():
        line = f"{interface} {priority}"
        set_(cgroup, "net_prio", "net_prio.ifpriomap", line, "network.priorities")
    _rdma(cgroup, resources)


def apply_v2(cgroup: Cgroup, resources: Resources) -> None:
    """Write those that are set."""
    if resources.block_io:
        _block_io_v2(cgroup, resources.block_io)
    for size, limit in resources.hugepages.items():
        set_(cgroup, "hugetlb", f"hugetlb.{size}.max", limit, "hugepageLimits")
    _rdma(cgroup, resources)


def _rdma(cgroup: Cgroup, resources: Resources) -> None:
    for device, (handles, objects) in resources.rdma.items():
        words = [device]
        words += [] if handles is None else [f"hca_handle={handles}"]
        words += [] if objects is None else [f"hca_object={objects}"]
        set_(cgroup, "rdma", "rdma.max", " ".join(words), f"rdma.{device}")


def _block_io_v1(cgroup: Cgroup, wanted: BlockIo) -> None:
    """The weights' file is that of the scheduler the kernel has: CFQ's up to 4.20, BFQ's since."""
    if wanted.weight is not None:
        name = _weight_file(cgroup, "blkio.weight", "blkio.bfq.weight", "blockIO.weight")
        set_(cgroup, "blkio", name, wanted.weight, "blockIO.weight")
    if wanted.leaf_weight is not None:
        set_(cgroup, "blkio", "blkio.leaf_weight", wanted.leaf_weight, "blockIO.leafWeight")
    field = "blockIO.weightDevice"
    if wanted.weight_device:
        name = _weight_file(cgroup, "blkio.weight_device", "blkio.bfq.weight_device", field)
        _by_device(cgroup, name, wanted.weight_device, field)
    _by_device(cgroup, "blkio.leaf_weight_device", wanted.leaf_weight_device, field)
    for limit, devices in wanted.throttle.items():
        _by_device(cgroup, _THROTTLES[limit][0], devices, f"blockIO.{limit}")


def _weight_file(cgroup: Cgroup, older: str, newer: str, field: str) -> str:
    directory = cgroup.directory("blkio")
    for name in (older, newer):
        if directory is not None and os.path.exists(f"{directory}/{name}"):
            return name
    raise RuntimeFailure(
        f"this kernel has neither {older} nor {newer} (no weighing I/O scheduler)",
        f"linux.resources.{field}",
    )


def _by_device(cgroup: Cgroup, name: str, devices: Sequence[DeviceNumber], field: str) -> None:
    for device in devices:
        line = f"{device.major}:{device.minor} {device.value}"
        set_(cgroup, "blkio", name, line, field)


def _block_io_v2(cgroup: Cgroup, wanted: BlockIo) -> None:
    if wanted.leaf_weight is not None or wanted.leaf_weight_device:
        raise RuntimeFailure("does not exist on cgroup v2", "linux.resources.blockIO.leafWeight")
    directory = cgroup.directory("io")
    bfq = directory is not None and os.path.exists(f"{directory}/io.bfq.weight")
    name = "io.bfq.weight" if bfq else "io.weight"
    if wanted.weight is not None:
        set_(cgroup, "io", name, _weight(wanted.weight, bfq), "blockIO.weight")
    for device in wanted.weight_device:
        line = f"{device.major}:{device.minor} {_weight(device.value, bfq)}"
        set_(cgroup, "io", name, line, "blockIO.weightDevice")
    for limit, devices in wanted.throttle.items():
        for device in devices:
            rate = f"{_THROTTLES[limit][1]}={device.value or 'max'}"
            line = f"{device.major}:{device.minor} {rate}"
            set_(cgroup, "io", "io.max", line, f"blockIO.{limit}")


def _weight(weight: int, bfq: bool) -> int:
    """10-1000 of the specification; io.weight has 1-10000, BFQ's file the same 1-1000."""
    return weight if bfq else 1 + (max(weight, 10) - 10) * 9999 // 990
