"""config-linux.md: namespaces, mappings, devices, sysctl, seccomp, paths, personality."""

from __future__ import annotations

import os
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.host.conformance.clauses import clause
from tests.host.conformance.conftest import Change, Document, Runtime

pytestmark = [pytest.mark.root, pytest.mark.timeout(60)]
KINDS = {"pid": "pid", "ipc": "ipc", "uts": "uts", "mount": "mnt", "network": "net"}


def linux(**more: Any) -> Change:
    """Set members of `linux`."""
    return lambda document: document["linux"].update(more)


def namespaces(*kinds: str, **paths: str) -> Change:
    wanted = [{"type": kind} for kind in kinds]
    return linux(namespaces=[*wanted, *({"type": k, "path": p} for k, p in paths.items())])


def private_users(document: Document) -> None:
    """A user namespace whose root is 100000 on the host."""
    mapping = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    document["linux"]["namespaces"].append({"type": "user"})
    document["linux"].update(uidMappings=mapping, gidMappings=mapping)


@clause("config-linux.md, Default Filesystems", "/proc, /sys, /dev/pts, /dev/shm can be had")
def test_default_file_systems(runtime: Runtime) -> None:
    """Each of its own type."""

    def change(document: Document) -> None:
        document["mounts"].append({"destination": "/sys", "type": "sysfs", "source": "sysfs"})

    lines = runtime.sh("cut -d' ' -f2,3 /proc/mounts", change)
    assert {"/proc proc", "/sys sysfs", "/dev/pts devpts", "/dev/shm tmpfs"} <= set(lines)


@clause("config-linux.md, Namespaces", "one without a path is new")
def test_new_namespaces(runtime: Runtime) -> None:
    """None of them is the runtime's."""
    script = " ".join(f"; readlink /proc/self/ns/{name}" for name in KINDS.values())[2:]
    ours = {os.readlink(f"/proc/self/ns/{name}") for name in KINDS.values()}
    assert not ours & set(runtime.sh(script))


@clause("config-linux.md, Namespaces", "one that is not listed is the runtime's own")
def test_inherited_namespaces(runtime: Runtime) -> None:
    """The network's here."""
    change = namespaces("pid", "ipc", "uts", "mount")
    assert runtime.sh("readlink /proc/self/ns/net", change) == [os.readlink("/proc/self/ns/net")]


@pytest.fixture
def sleeper() -> Iterator[int]:
    """The pid of a process in namespaces of its own. Above all its mount namespace is not ours: a
    runtime that joins it may change it, and must not reach the host's mounts."""
    child = subprocess.Popen(
        ["unshare", "--net", "--uts", "--ipc", "--mount", "sleep", "60"], stdout=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 10
        while Path(f"/proc/{child.pid}/comm").read_text() != "sleep\n":
            assert time.monotonic() < deadline
            time.sleep(0.005)
        for name in ("net", "uts", "ipc", "mnt"):
            own, ours = (os.readlink(f"/proc/{pid}/ns/{name}") for pid in (child.pid, "self"))
            assert own != ours
        yield child.pid
    finally:
        child.kill()
        child.wait()


@clause("config-linux.md, Namespaces", "one with a path is joined")
def test_joined_namespaces(runtime: Runtime, sleeper: int) -> None:
    """Network, uts and ipc of another process."""
    paths = {kind: f"/proc/{sleeper}/ns/{KINDS[kind]}" for kind in ("network", "uts", "ipc")}
    lines = runtime.sh(
        "for name in net uts ipc; do readlink /proc/self/ns/$name; done",
        namespaces("pid", "mount", **paths),
    )
    assert lines == [os.readlink(path) for path in paths.values()]


@clause("config-linux.md, Namespaces", "a path that is none of the type is an error")
def test_namespace_of_the_wrong_type(runtime: Runtime, sleeper: int) -> None:
    """A uts namespace is not a network."""
    runtime.refuses(namespaces("pid", "mount", network=f"/proc/{sleeper}/ns/uts"))
    runtime.refuses(namespaces("pid", "mount", network="/no/such"))


@clause("config-linux.md, Namespaces", "a type that is given twice is an error")
def test_duplicate_namespaces(runtime: Runtime) -> None:
    """Whatever it is."""
    runtime.refuses(namespaces("pid", "mount", "pid"))


@clause("config-linux.md, Namespaces", "a type that is none is an error")
def test_unknown_namespace(runtime: Runtime) -> None:
    """By name."""
    runtime.refuses(namespaces("pid", "mount", "weather"))


@clause("config-linux.md, Namespaces", "a mount namespace that exists is joined")
def test_joined_mount_namespace(runtime: Runtime, sleeper: int) -> None:
    """The container sees what the others in it see."""

    def change(document: Document) -> None:
        namespaces("pid", mount=f"/proc/{sleeper}/ns/mnt")(document)
        document.update(root={"path": "/"}, mounts=[])
        document["process"].update(
            env=["PATH=/usr/bin:/bin"], args=["readlink", "/proc/self/ns/mnt"]
        )

    path = runtime.bundle(change=change)
    done = runtime.ok("run", "--bundle", path, path.name)
    assert done.lines == [os.readlink(f"/proc/{sleeper}/ns/mnt")]


@clause("config-linux.md, User namespace mappings", "ids are mapped as given")
def test_user_namespace(runtime: Runtime) -> None:
    """As the kernel shows them."""
    lines = runtime.sh("cat /proc/self/uid_map /proc/self/gid_map", private_users)
    assert [line.split() for line in lines] == [["0", "100000", "65536"]] * 2


@clause("config-linux.md, Offset for Time Namespace", "the clocks are offset")
def test_time_namespace(runtime: Runtime) -> None:
    """Uptime is a day longer inside."""
    change = linux(
        namespaces=[{"type": kind} for kind in ("pid", "mount", "time")],
        timeOffsets={"boottime": {"secs": 86400, "nanosecs": 5}},
    )
    inside = float(runtime.sh("cat /proc/uptime", change)[0].split()[0])
    assert 86400 <= inside - float(Path("/proc/uptime").read_text().split()[0]) + 60 < 86520


@clause("config-linux.md, Default Devices", "null zero full random urandom tty, ptmx")
def test_default_devices(runtime: Runtime) -> None:
    """By their numbers, and they work."""
    names = "null zero full random urandom tty"
    script = (
        f"cd /dev; for n in {names}; do stat -c '%n %t:%T' $n; done; readlink ptmx; echo x >null"
    )
    assert runtime.sh(script) == [
        "null 1:3", "zero 1:5", "full 1:7", "random 1:8", "urandom 1:9", "tty 5:0", "pts/ptmx",
    ]  # fmt: skip


@clause("config-linux.md, Devices", "made with type, numbers, mode and owner")
def test_devices(runtime: Runtime) -> None:
    """Outside of /dev as well; a fifo needs no numbers."""
    devices = [
        {"type": "c", "path": "/dev/own", "major": 1, "minor": 3, "fileMode": 0o640, "uid": 7,
         "gid": 8},
        {"type": "p", "path": "/dev/pipe", "fileMode": 0o600},
    ]  # fmt: skip
    script = "stat -c '%F %t:%T %a %u:%g' /dev/own; stat -c '%F %a' /dev/pipe"
    assert runtime.sh(script, linux(devices=devices)) == [
        "character special file 1:3 640 7:8", "fifo 600",
    ]  # fmt: skip


@clause("config-linux.md, Devices", "another file at the path is an error")
def test_device_in_the_way(runtime: Runtime) -> None:
    """A regular file of the image is not replaced."""
    device = {"type": "c", "path": "/etc/plain", "major": 1, "minor": 3}
    runtime.refuses(linux(devices=[device]))
    assert stat.S_ISREG((runtime.rootfs / "etc/plain").stat().st_mode)


@clause("config-linux.md, Sysctl", "set in the container's namespaces")
def test_sysctl(runtime: Runtime) -> None:
    """The host's stays."""
    name = "net.ipv4.ip_unprivileged_port_start"
    path = "/proc/sys/" + name.replace(".", "/")
    before = Path(path).read_text()
    assert runtime.sh(f"cat {path}", linux(sysctl={name: "77"})) == ["77"]
    assert Path(path).read_text() == before


@clause("config-linux.md, Sysctl", "one that no namespace holds would change the host: an error")
def test_sysctl_of_the_host(runtime: Runtime) -> None:
    """Nor one of a namespace that is shared, nor a way round."""
    runtime.refuses(linux(sysctl={"vm.swappiness": "1"}))
    runtime.refuses(linux(sysctl={"net/../vm/swappiness": "1"}))

    def shared(document: Document) -> None:
        namespaces("pid", "mount")(document)
        linux(sysctl={"net.ipv4.ip_forward": "1"})(document)

    runtime.refuses(shared)


def seccomp(*rules: Document, default: str = "SCMP_ACT_ALLOW") -> Change:
    return linux(seccomp={"defaultAction": default, "syscalls": list(rules)})


def rule(action: str, *names: str, **more: Any) -> Document:
    return {"names": list(names), "action": action, **more}


@clause("config-linux.md, Seccomp", "SCMP_ACT_ERRNO gives the error, errnoRet says which")
def test_seccomp_errno(runtime: Runtime) -> None:
    """EPERM by default."""
    change = seccomp(
        rule("SCMP_ACT_ERRNO", "mkdir"), rule("SCMP_ACT_ERRNO", "symlink", errnoRet=38)
    )
    lines = runtime.sh("mkdir /tmp/x 2>&1; ln -s a /tmp/y 2>&1; true", change)
    assert "Operation not permitted" in lines[0]
    assert "Function not implemented" in lines[1]


@clause("config-linux.md, Seccomp", "SCMP_ACT_KILL_PROCESS ends the process")
def test_seccomp_kill(runtime: Runtime) -> None:
    """By SIGSYS: 128 + 31."""
    assert (
        runtime.sh("mkdir /tmp/x; echo $?", seccomp(rule("SCMP_ACT_KILL_PROCESS", "mkdir")))[-1]
        == "159"
    )


@clause("config-linux.md, Seccomp", "args: a rule applies where all of them match")
def test_seccomp_arguments(runtime: Runtime) -> None:
    """kill(2) with signal 12 only."""
    arguments = [{"index": 1, "value": 12, "op": "SCMP_CMP_EQ"}]
    change = seccomp(rule("SCMP_ACT_ERRNO", "kill", args=arguments))
    lines = runtime.sh("kill -0 $$ && echo 0; kill -12 $$ 2>/dev/null || echo 12", change)
    assert lines == ["0", "12"]


@clause("config-linux.md, Seccomp", "an action, operator or architecture that is none is an error")
def test_seccomp_unknown(runtime: Runtime) -> None:
    """By name."""
    runtime.refuses(seccomp(rule("SCMP_ACT_LAUGH", "mkdir")))
    bad = [{"index": 1, "value": 12, "op": "SCMP_CMP_MAYBE"}]
    runtime.refuses(seccomp(rule("SCMP_ACT_ERRNO", "kill", args=bad)))
    runtime.refuses(linux(seccomp={"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["PDP11"]}))


@clause("config-linux.md, Rootfs Mount Propagation", "the root has the propagation")
def test_rootfs_propagation(runtime: Runtime) -> None:
    """Shared roots are in a peer group."""
    script = "grep -E '^[^ ]+ [^ ]+ [^ ]+ [^ ]+ / ' /proc/self/mountinfo"
    lines = runtime.sh(script, linux(rootfsPropagation="private"))
    assert "shared:" not in lines[0]
    runtime.refuses(linux(rootfsPropagation="sideways"))


@clause("config-linux.md, Masked Paths", "files cannot be read, directories are empty")
def test_masked_paths(runtime: Runtime) -> None:
    """What is not there does not matter."""
    change = linux(maskedPaths=["/hidden", "/etc/plain", "/no/such"])
    assert runtime.sh("ls /hidden; cat /etc/plain", change) == []


@clause("config-linux.md, Readonly Paths", "cannot be written")
def test_read_only_paths(runtime: Runtime) -> None:
    """With what is below them."""
    change = linux(readonlyPaths=["/hidden", "/proc/sys", "/no/such"])
    script = "(echo x > /hidden/file) 2>&1; (echo x > /proc/sys/kernel/hostname) 2>&1; true"
    assert all("Read-only file system" in line for line in runtime.sh(script, change))


@clause("config-linux.md, Mount Label", "refused: mounts are not labelled")
def test_mount_label(runtime: Runtime) -> None:
    """Never ignored."""
    if Path("/sys/fs/selinux/enforce").exists():
        pytest.skip("this host has SELinux")
    runtime.refuses(linux(mountLabel="system_u:object_r:container_file_t:s0"))


@clause("config-linux.md, Personality", "the execution domain")
def test_personality(runtime: Runtime) -> None:
    """A 64-bit kernel says that it is a 32-bit one."""
    assert runtime.sh("uname -m", linux(personality={"domain": "LINUX32"})) == ["i686"]


@clause("config-linux.md, IntelRdt", "refused where the host has none")
def test_intel_rdt(runtime: Runtime) -> None:
    """Never ignored."""
    if Path("/sys/fs/resctrl/schemata").exists():
        pytest.skip("this host has resctrl mounted")
    runtime.refuses(linux(intelRdt={"closID": "guaranteed", "l3CacheSchema": "L3:0=7f0"}))


@clause("config.md, mounts, uidMappings", "a bind mount with id mappings of its own")
def test_idmapped_mount(runtime: Runtime, tmp_path: Path) -> None:
    """A file of root's on disk is 1000's inside."""
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared/file").touch()
    mapping = [{"containerID": 0, "hostID": 1000, "size": 10}]
    added = {"destination": "/mnt", "type": "bind", "source": str(tmp_path / "shared"),
             "options": ["bind", "idmap"], "uidMappings": mapping,
             "gidMappings": mapping}  # fmt: skip
    change: Change = lambda document: document["mounts"].append(added)  # noqa: E731
    lines = runtime.sh("stat -c %u:%g /mnt/file", change)
    assert lines == ["1000:1000"]
