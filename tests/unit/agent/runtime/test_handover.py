"""An Init arrives as it was sent, but for what only the caller needs."""

from __future__ import annotations

import socket
from dataclasses import replace

from agent.runtime import handover, options, parse
from agent.runtime.cgroups import Cgroup, Kind
from agent.runtime.init import Init
from agent.runtime.spec import Resources
from agent.runtime.stdio import Stdio

DOCUMENT = {
    "ociVersion": "1.2.0",
    "root": {"path": "rootfs", "readonly": True},
    "hostname": "h",
    "process": {
        "args": ["sh", "-c", "true"],
        "cwd": "/",
        "env": ["PATH=/bin"],
        "user": {"uid": 7, "gid": 8, "additionalGids": [9, 10], "umask": 18},
        "capabilities": {"bounding": ["CAP_KILL"]},
        "scheduler": {"policy": "SCHED_BATCH", "nice": 3},
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 5, "hard": 6}],
    },
    "mounts": [
        {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nodev", "private"]},
        {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["size=1m"]},
    ],
    "annotations": {"a": "b"},
    "hooks": {"createContainer": [{"path": "/bin/h", "args": ["h", "x"], "timeout": 3}]},
    "linux": {
        "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "user"}, {"type": "time"},
                       {"type": "network"}, {"type": "uts"}],
        "uidMappings": [{"containerID": 0, "hostID": 100, "size": 10}],
        "gidMappings": [{"containerID": 0, "hostID": 200, "size": 10}],
        "timeOffsets": {"monotonic": {"secs": 3, "nanosecs": 4}},
        "devices": [{"path": "/dev/x", "type": "c", "major": 1, "minor": 3}],
        "resources": {"memory": {"limit": 1}, "devices": [{"allow": False, "access": "rwm"}]},
        "seccomp": {"defaultAction": "SCMP_ACT_ALLOW"},
        "sysctl": {"net.ipv4.ip_forward": "1"},
        "maskedPaths": ["/proc/kcore"],
    },
}  # fmt: skip


def test_an_init_arrives_as_it_was_sent() -> None:
    """Every type of the specification that init reads travels, nested or empty."""
    config = parse.config(DOCUMENT)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        init = Init(
            uid="u", config=config, bundle_path="/b", control=theirs,
            mounts=[(mount, options.parse(mount)) for mount in config.mounts],
            cgroup=Cgroup(kind=Kind.HYBRID, path="/x", directories={"cpu": "/c"}, kept=("/c",)),
            stdio=Stdio(stdout=5), program=b"\0\1", program_flags=2, last_capability=40,
        )  # fmt: skip
        arrived = handover.unpack(handover.pack(init), ours, Stdio(stdin=3))
    linux = replace(config.linux, seccomp=None, resources=Resources())
    process = replace(config.process, rlimits=())
    assert arrived == replace(
        init, config=replace(config, linux=linux, process=process), control=ours,
        stdio=Stdio(stdin=3), mounts=tuple(init.mounts),
    )  # fmt: skip
    assert arrived.cgroup.kind is Kind.HYBRID
