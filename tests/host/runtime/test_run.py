"""Containers on the real kernel: what they see, what ends them, what they leave."""

from __future__ import annotations

import json
import os
import posixpath
import shutil
import signal
import subprocess
import sys
import time
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.runtime import bundle, cgroups, create, delete, kill, pause, start, state, update
from agent.runtime.container import ContainerState
from agent.runtime.failure import RuntimeFailure
from agent.runtime.stdio import Stdio
from agent.syscalls import mounts, namespaces
from bayplan.model.resources import Resources
from bayplan.model.service import Mount, MountKind, NetworkMode, UserNamespace
from tests.host.runtime.conftest import ID_BASE, Rig, wait
from tests.patience import PATIENCE

pytestmark = [pytest.mark.root, pytest.mark.timeout(60)]
USERS = pytest.mark.parametrize("users", [UserNamespace.PRIVATE, UserNamespace.HOST])


@USERS
def test_hello(rig: Rig, users: UserNamespace) -> None:
    """A command runs in both layers with its host name and its output arrives."""
    ended = rig.run("sh", "-c", "hostname; cat /opt/file", user_namespace=users)
    assert (ended.status, ended.out, ended.err) == (0, "t1\nfrom the second layer\n", "")


@pytest.mark.parametrize(
    ("command", "status"), [("exit 0", 0), ("exit 7", 7), ("kill -TERM $$; exit 5", 5)]
)
def test_exit_codes(rig: Rig, command: str, status: int) -> None:
    """Exit codes pass through; pid 1 of a namespace ignores signals it has no handler for."""
    assert rig.run("sh", "-c", command).status == status


def test_signal_from_outside_is_told_apart(rig: Rig) -> None:
    """A container killed from outside ends by that signal."""
    container = rig.started("sleep", "60")
    assert kill.signal(container.state, signal.SIGKILL)
    assert wait(container.pid) == -signal.SIGKILL
    assert not kill.signal(container.state, signal.SIGKILL)


def test_root_inside_is_nobody_outside(rig: Rig) -> None:
    """Root of the container has the range's base outside, but its files are root's on disk."""
    made = rig.bundle("sh", "-c", "touch /made; chown 5:6 /made; sleep 60")
    container = rig.create(made)
    start.start(container)
    uids = Path(f"/proc/{container.pid}/status").read_text().split("Uid:")[1].split()[0]
    assert uids == str(ID_BASE)
    _until(lambda: (made.path / "upper/made").exists() and _owner(made) == (5, 6))


def _owner(made: Any) -> tuple[int, int]:
    found = (made.path / "upper/made").stat()
    return found.st_uid, found.st_gid


def _until(condition: Any, deadline_s: float = 5.0) -> None:
    end = time.monotonic() + deadline_s * PATIENCE
    while not condition():
        assert time.monotonic() < end, "condition not met in time"
        time.sleep(0.01)


@USERS
def test_read_only_root(rig: Rig, users: UserNamespace) -> None:
    """With a read-only root only its tmpfs mounts take files."""
    script = "touch /x 2>/dev/null || echo no; touch /scratch/x && echo yes"
    ended = rig.run(
        "sh", "-c", script, read_only_rootfs=True, user_namespace=users,
        mounts=(Mount(target="/scratch", kind=MountKind.TMPFS, size_bytes=1 << 20),),
    )  # fmt: skip
    assert ended.out == "no\nyes\n"


@USERS
def test_masked_and_read_only_paths(rig: Rig, users: UserNamespace) -> None:
    """Masked files are empty, masked directories too, and /proc/sys cannot be written."""
    script = (
        "cat /proc/keys /proc/timer_list | wc -c; ls /sys/firmware | wc -l;"
        "echo 1 > /proc/sys/kernel/core_pattern || echo ro;"
        "echo b > /proc/sysrq-trigger || echo ro"
    )
    ended = rig.run("sh", "-c", script, user_namespace=users)
    assert ended.out == "0\n0\nro\nro\n"


@USERS
def test_capabilities_and_filter(rig: Rig, users: UserNamespace) -> None:
    """Docker's fourteen capabilities, no new privileges, a filter."""
    ended = rig.run(
        "grep", "-E", "^(Cap|NoNew|Seccomp:)", "/proc/self/status", user_namespace=users
    )
    found = dict(line.split(":\t") for line in ended.out.splitlines())
    assert found == {
        "CapInh": "0000000000000000",
        "CapPrm": "00000000a80425fb",
        "CapEff": "00000000a80425fb",
        "CapBnd": "00000000a80425fb",
        "CapAmb": "0000000000000000",
        "NoNewPrivs": "1",
        "Seccomp": "2",
    }


def test_other_user_has_no_capabilities(rig: Rig) -> None:
    """A user that is not root holds none of them, and its groups are exactly those given."""
    context = {"uid": 1000, "gid": 1001, "additional_gids": (7,)}
    ended = rig.run("sh", "-c", "id; grep CapEff /proc/self/status", context=context)
    assert ended.out == "uid=1000 gid=1001 groups=7\nCapEff:\t0000000000000000\n"


@USERS
def test_filter_refuses_what_reaches_out(rig: Rig, users: UserNamespace) -> None:
    """mount and unshare are refused even to root inside."""
    script = (
        "mount -t tmpfs x /tmp || echo no; unshare -m true || echo no; unshare -r true || echo no"
    )
    ended = rig.run("sh", "-c", script, user_namespace=users)
    assert ended.out == "no\nno\nno\n"


def test_pipes_can_be_reopened_by_other_users(rig: Rig) -> None:
    """/dev/stdout works for a user that is not root."""
    ended = rig.run("sh", "-c", "echo hi > /dev/stdout", context={"uid": 1000, "gid": 1000})
    assert ended.out == "hi\n"


@USERS
def test_no_descriptor_leaks_in(rig: Rig, users: UserNamespace) -> None:
    """A container has 0, 1 and 2 and nothing of the host's."""
    with open("/etc/hostname") as held:
        os.set_inheritable(held.fileno(), True)
        ended = rig.run("sh", "-c", "echo /proc/self/fd/*", user_namespace=users)
    found = {Path(p).name for p in ended.out.split()}
    assert found - {"3"} == {"0", "1", "2"}


@USERS
def test_loopback_is_up(rig: Rig, users: UserNamespace) -> None:
    """The container's network namespace has lo, up, and nothing else."""
    ended = rig.run(
        "sh", "-c", "ip -o link | wc -l; ping -c 1 -W 2 127.0.0.1", user_namespace=users
    )
    assert ended.out.startswith("1\n")
    assert ended.status == 0, ended.out


@USERS
def test_host_network(rig: Rig, users: UserNamespace) -> None:
    """With the host's network the namespace is ours, and /sys is there, read-only."""
    ended = rig.run(
        "sh", "-c", "readlink /proc/self/ns/net; touch /sys/x || ls /sys | wc -l",
        network=NetworkMode.HOST, user_namespace=users,
    )  # fmt: skip
    lines = ended.out.split()
    assert lines[0] == os.readlink("/proc/self/ns/net")
    assert int(lines[1]) > 3


@USERS
def test_cgroup_view(rig: Rig, users: UserNamespace) -> None:
    """Inside, the own cgroup is the root of what is visible, and its limits can be read."""
    limits = Resources(memory_bytes=64 << 20)
    ended = rig.run(
        "sh", "-c", "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max;"
        "grep -c runtime-test /proc/self/cgroup",
        resources=limits, user_namespace=users,
    )  # fmt: skip
    assert ended.out.split() == [str(64 << 20), "0"]


def test_memory_limit_ends_in_oom(rig: Rig) -> None:
    """What needs more memory than it has is killed, and it is told apart from an exit."""
    ended = rig.run(
        "sh", "-c", "x=$(dd if=/dev/zero bs=1M count=64 | tr '\\0' x); echo ${#x}",
        resources=Resources(memory_bytes=16 << 20),
    )  # fmt: skip
    assert ended.oom_killed
    assert not rig.run("sh", "-c", "exit 9").oom_killed


def test_pids_limit(rig: Rig) -> None:
    """Forks beyond the limit fail."""
    script = "for i in 1 2 3 4 5 6 7 8 9 10; do sleep 1 & done; wait"
    ended = rig.run("sh", "-c", script, resources=Resources(pids=5))
    assert "fork" in ended.err


def test_cpu_limit_throttles(rig: Rig) -> None:
    """A busy loop with a tenth of a core is throttled, and the statistics say so."""
    container = rig.started(
        "sh", "-c", "while :; do :; done", resources=Resources(cpu_millis=100, pids=50)
    )
    _until(lambda: cgroups.stats(container.cgroup).cpu_throttled_periods > 2)
    found = cgroups.stats(container.cgroup)
    assert found.cpu_ns > 0
    assert (found.pids, found.pids_limit) == (1, 50)
    assert found.memory_bytes > 0


def test_update_a_running_container(rig: Rig) -> None:
    """Limits change under a running container, up and down."""
    container = rig.started("sleep", "60", resources=Resources(memory_bytes=64 << 20))
    for size in (128 << 20, 32 << 20):
        update.update(container.state, {"memory": {"limit": size, "swap": size}})
        assert cgroups.stats(container.cgroup).memory_limit_bytes == size


def test_pause_and_resume(rig: Rig) -> None:
    """A paused container stands still and goes on."""
    container = rig.started("sh", "-c", "while :; do :; done")
    pause.pause(container.state)
    assert state.describe(container.state)["status"] == "paused"
    before = cgroups.stats(container.cgroup).cpu_ns
    os.sched_yield()
    assert cgroups.stats(container.cgroup).cpu_ns == before
    pause.resume(container.state)
    assert state.describe(container.state)["status"] == "running"


def test_kill_all_takes_what_left_the_session(rig: Rig) -> None:
    """Every process of the cgroup ends, and the cgroups go."""
    container = rig.started("sh", "-c", "setsid sleep 60 & setsid sleep 60 & sleep 60")
    _until(lambda: len(container.cgroup.pids()) == 4 or len(container.cgroup.pids()) == 3)
    kill.kill_all(container.cgroup)
    assert wait(container.pid) == -signal.SIGKILL
    delete.delete(container.state)
    assert not any(Path(d).exists() for d in container.cgroup.directories.values())


def test_layers_are_shared_and_stay_clean(rig: Rig, layers: tuple[Path, ...]) -> None:
    """Two containers write over one layer; each sees its own, the layer stays as it was."""
    script = "sleep 0; echo $HOSTNAME > /opt/file; cat /opt/file"
    first, second = rig.run("sh", "-c", script), rig.run("sh", "-c", script)
    assert (first.out, second.out) == ("t1\n", "t2\n")
    assert (layers[1] / "opt/file").read_text() == "from the second layer\n"


@USERS
def test_volumes_and_binds(rig: Rig, users: UserNamespace, tmp_path: Path) -> None:
    """A volume keeps files with the container's ids on disk; a bind can be read-only."""
    volume, shown = tmp_path / "volume", tmp_path / "shown"
    volume.mkdir()
    shown.write_text("host file\n")
    ended = rig.run(
        "sh", "-c", "touch /data/f; chown 33:34 /data/f; cat /shown; echo x >> /shown || echo ro",
        user_namespace=users, context={"volumes": {"v": str(volume)}},
        mounts=(
            Mount(target="/data", kind=MountKind.VOLUME, source="v"),
            Mount(target="/shown", kind=MountKind.BIND, source=str(shown), read_only=True),
        ),
    )  # fmt: skip
    assert ended.out == "host file\nro\n"
    found = (volume / "f").stat()
    assert (found.st_uid, found.st_gid) == (33, 34)


def test_older_kernels_way_to_an_overlay(rig: Rig) -> None:
    """Without lowerdir+ (before Linux 6.7) the overlay is the same, and no mount stays."""
    before = Path("/proc/self/mounts").read_text()
    rig.host = replace(rig.host, overlay_by_fd=False)
    ended = rig.run("sh", "-c", "cat /opt/file; touch /f; ls -ln /f /opt/file | cut -c 1-50")
    assert ended.out.startswith("from the second layer\n")
    assert ended.status == 0
    assert Path("/proc/self/mounts").read_text() == before


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("nothing", 'command "nothing" not found in $PATH of the image'),
        ("/opt/nothing", 'command "/opt/nothing" not found in the image'),
        ("/opt/plain", 'command "/opt/plain" is not executable'),
        ("/opt", 'command "/opt" is a directory'),
        ("/opt/broken", 'command "/opt/broken": its interpreter or loader is missing in the image'),
    ],
)
def test_what_cannot_be_started_is_said(rig: Rig, command: str, message: str) -> None:
    """Each way a command cannot be executed has its sentence."""
    with pytest.raises(RuntimeFailure) as caught:
        rig.run(command)
    assert (caught.value.message, caught.value.field) == (message, "process.args[0]")


def test_start_of_what_was_killed_is_said(rig: Rig) -> None:
    """An init that was killed while it was held is not taken for one that has executed."""
    container = rig.create(rig.bundle("true"))
    os.kill(container.pid, signal.SIGKILL)
    wait(container.pid)
    with pytest.raises(RuntimeFailure, match="ended before it was started"):
        start.start(container)


@pytest.mark.parametrize("read_only", [False, True])
def test_missing_working_directory_is_made(rig: Rig, *, read_only: bool) -> None:
    """As other runtimes do, with its parents, also where the root refuses writes afterwards."""
    ended = rig.run("pwd", working_dir="/no/where", read_only_rootfs=read_only)
    assert (ended.status, ended.out) == (0, "/no/where\n")


def test_unusable_working_directory_is_said(rig: Rig) -> None:
    """A working directory that cannot be one has its reason."""
    with pytest.raises(RuntimeFailure, match=r'process\.cwd: working directory "/bin/sh"'):
        rig.run("true", working_dir="/bin/sh")


def test_proc_as_a_link_is_refused(rig: Rig, layers: tuple[Path, ...], tmp_path: Path) -> None:
    """An image cannot lead the mount of /proc elsewhere."""
    evil = tmp_path / "evil"
    evil.mkdir()
    (evil / "proc").symlink_to("/tmp")
    rig.layers = (*layers, evil)
    with pytest.raises(RuntimeFailure, match="/proc is a symbolic link in the image"):
        rig.run("true")


@pytest.mark.parametrize(
    ("link", "landed"),
    [("../run/x/resolv.conf", "run/x/resolv.conf"), ("/../../deep/r", "deep/r")],
)
def test_target_behind_a_dangling_link(
    rig: Rig, layers: tuple[Path, ...], tmp_path: Path, link: str, landed: str
) -> None:
    """A mount onto a link that leads nowhere makes its target, inside the root."""
    image = tmp_path / "image"
    (image / "etc").mkdir(parents=True)
    (image / "etc/resolv.conf").symlink_to(link)
    shown = tmp_path / "shown"
    shown.write_text("nameserver\n")
    rig.layers = (*layers, image)
    ended = rig.run("cat", "/etc/resolv.conf", f"/{landed}", context={"resolv_conf": str(shown)})
    assert ended.out == "nameserver\n" * 2


def test_target_behind_a_loop(rig: Rig, layers: tuple[Path, ...], tmp_path: Path) -> None:
    """Links in a circle are an error and no hang."""
    image = tmp_path / "image"
    image.mkdir()
    (image / "a").symlink_to("b")
    (image / "b").symlink_to("a")
    rig.layers = (*layers, image)
    with pytest.raises(RuntimeFailure, match=r"mounts\[6\]: /a/x: .*symbolic links"):
        rig.run("true", mounts=(Mount(target="/a/x", kind=MountKind.TMPFS),))


def test_a_failed_create_leaves_nothing(rig: Rig) -> None:
    """No process, cgroup or descriptor stays behind a create that fails half-way."""
    made = rig.bundle("true", mounts=(Mount(target="/x", kind=MountKind.BIND, source="/none"),))
    fds = os.listdir("/proc/self/fd")
    with pytest.raises(RuntimeFailure, match=r"mounts\[6\].source: /none: No such file"):
        create.create("failed", made, Stdio(), rig.host)
    assert os.listdir("/proc/self/fd") == fds
    path = made.config.linux.cgroups_path
    assert not cgroups.reopen(rig.host.hierarchy, path).directories
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_fifty_cycles_leak_nothing(rig: Rig) -> None:
    """Mounts, cgroups, descriptors, namespaces and processes are as many after as before; in a
    mount namespace of our own, where nobody else mounts."""
    made = rig.bundle("true")
    parent = posixpath.dirname(made.config.linux.cgroups_path)
    rig.run("true")
    pid = os.fork()
    if pid == 0:
        try:
            namespaces.unshare(namespaces.CLONE_NEWNS)
            mounts.mount(None, b"/", None, mounts.MS_PRIVATE | mounts.MS_REC, None)
            before = _remains(rig, parent)
            _cycles(rig, made, 50)
            after = _remains(rig, parent)
            assert after == before, f"{before} became {after}"
        except BaseException:  # noqa: BLE001  a child must not return
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    assert wait(pid) == 0


def _cycles(rig: Rig, made: bundle.Bundle, count: int) -> None:
    for _ in range(count):
        container = create.create("cycle", made, Stdio(), rig.host)
        start.start(container)
        assert wait(container.pid) == 0
        delete.delete(container.state)
        container.close()


def _remains(rig: Rig, parent: str) -> tuple[int, int, int, int]:
    """(mounts, cgroups, descriptors, children)"""
    groups = sum(
        len(os.listdir(mount + parent))
        for mount in rig.host.hierarchy.mounts.values()
        if os.path.isdir(mount + parent)
    )
    children = len(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())
    lines = Path("/proc/self/mountinfo").read_text().count("\n")
    return lines, groups, len(os.listdir("/proc/self/fd")), children


def test_signals_begin_at_their_defaults(rig: Rig) -> None:
    """What the interpreter and the caller ignore or block is neither in a container."""
    before = signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    try:
        ended = rig.run("grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status")
    finally:
        signal.signal(signal.SIGUSR2, before)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])
    assert ended.out == "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n"


def test_limits_sysctls_and_umask(rig: Rig) -> None:
    """rlimits, namespaced sysctls and the umask are the container's own."""

    def change(document: dict[str, Any]) -> None:
        document["process"]["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": 77, "hard": 88}]
        document["process"]["user"]["umask"] = 0o027
        document["linux"]["sysctl"] = {"net.ipv4.ip_unprivileged_port_start": "81"}

    script = "ulimit -n; ulimit -Hn; umask; cat /proc/sys/net/ipv4/ip_unprivileged_port_start"
    assert rig.run("sh", "-c", script, change=change).out == "77\n88\n0027\n81\n"


def test_oom_score_that_cannot_be_had_is_a_warning(rig: Rig) -> None:
    """Without CAP_SYS_RESOURCE a lower score is refused by the kernel, and this is said."""
    container = rig.create(
        rig.bundle("sleep", "60", change=lambda d: d["process"].update(oomScoreAdj=-500))
    )
    score = int(Path(f"/proc/{container.pid}/oom_score_adj").read_text())
    assert (score == -500) != bool(container.warnings)


def test_join_a_network_namespace(rig: Rig) -> None:
    """A namespace given by path is joined, though it is not the user namespace's own."""
    first = rig.started("sleep", "60")
    path = f"/proc/{first.pid}/ns/net"

    def join(document: dict[str, Any]) -> None:
        for namespace in document["linux"]["namespaces"]:
            if namespace["type"] == "network":
                namespace["path"] = path

    ended = rig.run("readlink", "/proc/self/ns/net", change=join)
    assert ended.out.strip() == os.readlink(path)


def test_plain_oci_bundle(rig: Rig, layers: tuple[Path, ...], tmp_path: Path) -> None:
    """Without layers.json the root is the bundle's directory, as other runtimes have it."""
    made = rig.bundle("sh", "-c", "touch /root/x; ls /bin/sh", user_namespace=UserNamespace.HOST)
    shutil.copytree(layers[0], made.path / "rootfs", symlinks=True)
    (made.path / "layers.json").unlink()
    ended = rig.run_bundle(bundle.load(made.path))
    assert (ended.status, ended.out) == (0, "/bin/sh\n")
    assert (made.path / "rootfs/root/x").exists()


def test_stats_are_cheap(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading a container's statistics opens a dozen files at most, none of them twice."""
    container = rig.started("sleep", "60")
    opened: list[str] = []
    really = os.open

    def counted(path: str, flags: int) -> int:
        opened.append(path)
        return really(path, flags)

    monkeypatch.setattr(os, "open", counted)
    found = cgroups.stats(container.cgroup)
    monkeypatch.undo()
    assert found.pids == 1
    pressure = sum(path.endswith(".pressure") for path in opened)  # on v2, where the kernel has it
    assert len(set(opened)) == len(opened) <= 12 + pressure


def test_command_line(rig: Rig) -> None:
    """`python -m agent.runtime run` gives the command's output and exit code."""
    made = rig.bundle("sh", "-c", "echo out; exit 6")
    ended = subprocess.run(
        [sys.executable, "-m", "agent.runtime", "run", "--bundle", made.path, "cli"],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert (ended.returncode, ended.stdout, ended.stderr) == (6, "out\n", "")


def test_a_starter_makes_its_parents_child(rig: Rig) -> None:
    """`sibling`: the process that creates exits, and its parent reaps the container."""
    made = rig.bundle("sh", "-c", "exit 11")
    reading, writing = os.pipe()
    starter = os.fork()
    if starter == 0:
        try:
            container = create.create("sib", made, Stdio(), rig.host, sibling=True)
            start.start(container)
            os.write(writing, json.dumps(container.state.to_json()).encode())
        except BaseException:  # noqa: BLE001  a child must not return
            traceback.print_exc()
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as file:
        made_state = ContainerState.from_json(json.loads(file.read()))
    assert wait(starter) == 0
    assert wait(made_state.pid) == 11
    delete.delete(made_state)
