"""Hostile images and configurations: nothing they name reaches the host."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.runtime import start
from agent.runtime.failure import RuntimeFailure
from agent.runtime.stdio import Stdio
from agent.syscalls import paths
from bayplan.model.service import UserNamespace
from tests.host.conformance.conftest import Runtime
from tests.host.conformance.terminals import Console, read_terminal
from tests.host.runtime.conftest import Rig

USERS = pytest.mark.parametrize("users", [UserNamespace.PRIVATE, UserNamespace.HOST])
pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]
Change = Callable[[dict[str, Any]], None]
SWAPS = """\
import ctypes, os, sys
call = ctypes.CDLL(None).syscall
number = {"x86_64": 316, "aarch64": 276}[os.uname().machine]
one, other = (os.fsencode(name) for name in sys.argv[1:])
print("ready", flush=True)
while True:
    call(number, -100, one, -100, other, 2)  # RENAME_EXCHANGE
"""
ROUNDS = 25


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """A directory of the host in which nothing may appear."""
    path = tmp_path / "outside"
    path.mkdir(mode=0o777)
    yield path
    assert sorted(os.listdir(path)) == []


@pytest.fixture
def image(runtime: Runtime, tmp_path: Path) -> Path:
    """A root of the test's own, which the runtime's containers have."""
    path = tmp_path / "image"
    shutil.copytree(runtime.rootfs, path, symlinks=True)
    runtime.rootfs = path
    return path


def without_dev(document: dict[str, Any]) -> None:
    """The image's own /dev instead of a fresh one."""
    document["mounts"] = [m for m in document["mounts"] if not m["destination"].startswith("/dev")]


def mounted(*entries: tuple[str, str, Path | str]) -> Change:
    """More mounts: (type, destination, source)."""

    def change(document: dict[str, Any]) -> None:
        for kind, destination, source in entries:
            document["mounts"].append({
                "destination": destination, "type": kind, "source": str(source),
                "options": ["bind"] if kind == "bind" else [],
            })  # fmt: skip

    return change


@pytest.mark.parametrize("up", ["", "../../../../../../../.."])
def test_dev_leads_out(runtime: Runtime, image: Path, outside: Path, up: str) -> None:
    """An image's /dev that is a link is followed inside the root only (CVE-2026-41579)."""
    (image / "dev").rmdir()
    (image / "dev").symlink_to(f"{up}{outside}")
    assert runtime.sh(f"ls {outside}", without_dev)[:2] == ["fd", "full"]


def test_mount_targets_lead_out(runtime: Runtime, image: Path, outside: Path) -> None:
    """Files and directories that are made for mounts are made inside (CVE-2021-30465,
    CVE-2024-45310)."""
    (image / "mnt").rmdir()
    (image / "mnt").symlink_to(outside)
    shown = runtime.directory / "shown"
    shown.write_text("shown\n")
    change = mounted(("bind", "/mnt/deep/file", shown), ("tmpfs", "/mnt/other/dir", "tmpfs"))
    assert runtime.sh("cat /mnt/deep/file; stat -f -c %T /mnt/other/dir", change) == [
        "shown", "tmpfs",
    ]  # fmt: skip


def test_console_leads_out(runtime: Runtime, image: Path, outside: Path, tmp_path: Path) -> None:
    """/dev/console is bound inside, and is the terminal that was opened (CVE-2025-52565)."""
    (image / "dev/pts").mkdir()
    (image / "dev/console").symlink_to(outside / "console")

    def change(document: dict[str, Any]) -> None:
        without_dev(document)
        document["process"]["terminal"] = True
        document["mounts"].append(
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["newinstance", "ptmxmode=0666"]}
        )  # fmt: skip

    script = "stat -L -c %t:%T /dev/console /dev/pts/0; tty"
    path = runtime.bundle("sh", "-c", script, change=change)
    with Console(tmp_path / "console") as console:
        runtime.ok("create", "--bundle", path, "--console-socket", console.path, path.name)
        master = console.master()
        runtime.ok("start", path.name)
        assert read_terminal(master).split() == ["88:0", "88:0", "/dev/pts/0"]


@pytest.mark.parametrize("fake", ["fifo", "file", "link"])
def test_multiplexer_is_faked(runtime: Runtime, image: Path, tmp_path: Path, fake: str) -> None:
    """What stands where the terminal multiplexer should is not taken for one, nor waited for."""
    (image / "dev/pts").mkdir()
    ptmx = image / "dev/pts/ptmx"
    if fake == "fifo":
        os.mkfifo(ptmx)
    elif fake == "file":
        ptmx.write_text("")
    else:
        ptmx.symlink_to("/dev/zero")

    def change(document: dict[str, Any]) -> None:
        without_dev(document)
        document["process"]["terminal"] = True

    path = runtime.bundle(change=change)
    with Console(tmp_path / "console") as console:
        said = runtime.fails(
            "create", "--bundle", path, "--console-socket", console.path, path.name
        )
    assert "no pseudo terminal multiplexer" in said


def test_null_is_faked(runtime: Runtime, image: Path) -> None:
    """Paths are masked by the host's null device, not by the image's (CVE-2025-31133)."""
    (image / "dev/null").symlink_to("/proc/sys/kernel/core_pattern")

    def change(document: dict[str, Any]) -> None:
        document["linux"]["maskedPaths"] = ["/proc/timer_list", "/etc/plain"]

    script = "stat -c %t:%T /proc/timer_list /etc/plain; cat /etc/plain"
    assert runtime.sh(script, change) == ["1:3", "1:3"]

    def own_dev(document: dict[str, Any]) -> None:
        change(document)
        without_dev(document)

    assert "/dev/null exists in the image and is not c 1:3" in runtime.refuses(own_dev)


def test_masked_path_is_a_link(runtime: Runtime, image: Path, outside: Path) -> None:
    """A masked path that is a link masks what it means inside; one that leads nowhere, nothing."""
    (image / "leads").symlink_to("/etc")
    (image / "nowhere").symlink_to(outside / "x")

    def change(document: dict[str, Any]) -> None:
        document["linux"]["maskedPaths"] = ["/leads", "/nowhere"]
        document["linux"]["readonlyPaths"] = ["/nowhere"]

    assert runtime.sh("ls /etc /leads/", change) == ["/etc:", "", "/leads/:"]


@pytest.mark.parametrize("name", ["proc", "sys"])
def test_proc_and_sys_are_links(runtime: Runtime, image: Path, outside: Path, name: str) -> None:
    """An image cannot lead the mounts of /proc and /sys elsewhere (CVE-2019-19921,
    CVE-2023-27561, CVE-2023-28642)."""
    (image / name).rmdir()
    (image / name).symlink_to(outside)
    change = mounted(("sysfs", "/sys", "sysfs")) if name == "sys" else mounted()
    assert f"/{name} is a symbolic link in the image" in runtime.refuses(change)


@pytest.mark.parametrize("destination", ["/proc/sys", "/proc/self/attr", "/leads/attr", "/proc"])
def test_mounts_over_proc(runtime: Runtime, image: Path, destination: str) -> None:
    """Nothing that is not a procfs comes to lie on or in /proc, where labels and sysctls are
    written (CVE-2019-16884, CVE-2025-52881)."""
    (image / "leads").symlink_to("/proc/self")
    said = runtime.refuses(mounted(("tmpfs", destination, "tmpfs")))
    assert f"{destination} lies in /proc, where nothing may be mounted" in said


def test_writes_to_a_false_proc(tmp_path: Path) -> None:
    """Who writes to /proc finds out that it is none, or that something lies over a part of it."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from agent.runtime import procfs\n"
        "procfs.write(procfs.visible(), 'sys/kernel/domainname', 'escaped')\n"
    )
    false = tmp_path / "false"
    false.write_text("")
    for mount, error in (
        (f"mount --bind {false} /proc/sys/kernel/domainname", "Invalid cross-device link"),
        ("mount -t tmpfs tmpfs /proc", "/proc is not a procfs"),
        ("mount --bind /proc/sys /proc", "/proc is not a procfs"),
    ):
        done = subprocess.run(
            ["unshare", "-mu", "sh", "-ec", f'{mount}; exec "$@"', "sh",
             sys.executable, "-c", code, str(Path(__file__).parents[3])],
            capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
        assert error in done.stderr
    assert false.read_text() == ""


@USERS
def test_working_directory_of_the_host(rig: Rig, outside: Path, users: UserNamespace) -> None:
    """A descriptor of the host's is no way to a working directory (CVE-2024-21626): neither one
    that leaks from the caller nor one of those the container has."""
    held = os.open(outside, os.O_RDONLY | os.O_DIRECTORY)
    os.set_inheritable(held, True)
    try:
        for number in range(held + 8):
            made = rig.bundle("ls", working_dir=f"/proc/self/fd/{number}", user_namespace=users)
            container = rig.create(made, Stdio(stdin=held))
            with pytest.raises(RuntimeFailure, match=r"process\.cwd"):
                start.start(container)
    finally:
        os.close(held)


def test_preserved_working_directory(runtime: Runtime, outside: Path) -> None:
    """Nor is one that an engine hands over."""

    def change(document: dict[str, Any]) -> None:
        document["process"]["cwd"] = "/proc/self/fd/3"

    path = runtime.bundle("ls", change=change)
    direct = runtime.command
    runtime.command = ["sh", "-c", 'exec 3<"$0"; exec "$@"', str(outside), *direct]
    said = runtime.fails("run", "--preserve-fds=1", "--bundle", path, path.name)
    runtime.command = direct
    assert "process.cwd" in said


def test_copied_up_links(runtime: Runtime, image: Path, tmp_path: Path) -> None:
    """What a tmpfs begins with is the image's, not what its links mean on the host
    (CVE-2022-23648)."""
    secret = tmp_path / "secret"
    secret.write_text("secret\n")
    (image / "data").mkdir()
    (image / "data/link").symlink_to(secret)
    (image / "data/up").symlink_to("../../../../../../../..")

    def change(document: dict[str, Any]) -> None:
        document["mounts"].append({"destination": "/data", "type": "tmpfs", "source": "tmpfs",
                                   "options": ["tmpcopyup"]})  # fmt: skip

    assert runtime.sh(f"ls /data; cat /data/link /data/up{secret} || echo no", change) == [
        "link", "up", "no",
    ]  # fmt: skip


def test_sysctls_that_hide_others(runtime: Runtime) -> None:
    """A value that an engine might split sets nothing else (CVE-2022-0811)."""
    before = Path("/proc/sys/kernel/core_pattern").read_text()

    def change(document: dict[str, Any]) -> None:
        document["linux"]["sysctl"] = {"kernel.shm_rmid_forced": "1+kernel.core_pattern=|/x"}

    assert "kernel.shm_rmid_forced" in runtime.refuses(change)
    assert Path("/proc/sys/kernel/core_pattern").read_text() == before


@pytest.mark.parametrize("uid", [1 << 32, -1, (1 << 32) - 1])
def test_user_ids_that_wrap(runtime: Runtime, uid: int) -> None:
    """An id beyond 32 bits does not become root (CVE-2024-40635), nor -1 nobody at all."""

    def change(document: dict[str, Any]) -> None:
        document["process"]["user"]["uid"] = uid

    assert "process.user.uid" in runtime.refuses(change)


def test_directories_are_closed_to_users(runtime: Runtime) -> None:
    """Who has an account on the host sees neither a container's state nor its configuration
    (CVE-2021-41103, CVE-2024-25621)."""
    uid = runtime.created("true")
    state = runtime.directory / "state"
    assert [state.stat().st_mode & 0o77, (state / uid).stat().st_mode & 0o77] == [0, 0]


@contextlib.contextmanager
def swapping(one: Path, other: Path) -> Iterator[None]:
    """Meanwhile another process exchanges the two, over and over."""
    with subprocess.Popen(
        [sys.executable, "-c", SWAPS, one, other], stdout=subprocess.PIPE
    ) as swaps:
        assert swaps.stdout is not None
        assert swaps.stdout.readline() == b"ready\n"
        try:
            yield
        finally:
            swaps.send_signal(signal.SIGKILL)
            swaps.wait()


@USERS
def test_target_is_swapped_meanwhile(rig: Rig, outside: Path, users: UserNamespace) -> None:
    """A neighbour in the same volume exchanges a directory for a link, over and over, while
    mounts are made below it (CVE-2021-30465): they land in the root, or fail."""
    volume = rig.directory / "volume"
    (volume / "target").mkdir(parents=True)
    (volume / "target").chmod(0o777)
    (volume / "link").symlink_to(outside)
    change = mounted(
        ("bind", "/vol", volume), ("tmpfs", "/vol/target/a/b", "x"),
        ("tmpfs", "/vol/target/../target/c", "x"),
    )  # fmt: skip
    with swapping(volume / "target", volume / "link"):
        ends = [_end(rig, change, users) for _ in range(ROUNDS)]
    assert "runs" in ends, ends


def _end(rig: Rig, change: Change, users: UserNamespace) -> str:
    try:
        ended = rig.run("true", change=change, user_namespace=users)
    except RuntimeFailure as failure:
        return str(failure)
    return "runs" if ended.status == 0 else ended.err


def test_renames_keep_nobody_from_a_path(tmp_path: Path) -> None:
    """Somebody who renames all the time makes the kernel doubt every `..` on the host (EAGAIN);
    paths are found all the same."""
    for name in ("inside", "one", "other"):
        (tmp_path / name).mkdir()
    root = os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)
    with swapping(tmp_path / "one", tmp_path / "other"):
        for _ in range(300):
            os.close(paths.open_in_root(root, b"inside/../" * 100 + b"inside", os.O_PATH))
    os.close(root)
