"""The controller's own child etcd, through crashes of either."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from controller.store.base import Deposed
from controller.store.etcd import EtcdStore, ManagedEtcd
from controller.store.etcd.managed import ManagedEtcdFailed
from tests.integration.store.test_store import a_node

CONTROLLER = """
import asyncio, json, pathlib, sys
from controller.store.etcd import EtcdStore, ManagedEtcd

async def main():
    etcd = ManagedEtcd(pathlib.Path(sys.argv[1]))
    await etcd.start()
    store = EtcdStore(etcd.config)
    await store.start()
    print(json.dumps({"pid": etcd.pid}), flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


def a_controller(state: Path) -> tuple[subprocess.Popen[str], int]:
    """A process that supervises an etcd; and that etcd's pid."""
    process = subprocess.Popen(
        [sys.executable, "-c", CONTROLLER, str(state)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout
    while not (line := process.stdout.readline()).startswith("{"):
        assert line, "the controller ended"
    return process, json.loads(line)["pid"]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def until(condition: Callable[[], object], timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        await asyncio.sleep(0.02)


async def test_state_survives_a_clean_restart(tmp_path: Path) -> None:
    """What was written is there after stop and start, and stop leaves no process."""
    etcd = ManagedEtcd(tmp_path)
    await etcd.start()
    store = EtcdStore(etcd.config)
    await store.start()
    await store.commit((a_node("a"),), None)
    pid = etcd.pid
    await store.close()
    await etcd.stop()
    assert not alive(pid)
    again = ManagedEtcd(tmp_path)
    await again.start()
    store = EtcdStore(again.config)
    await store.start()
    assert ("", "a") in store.tables.nodes
    assert (await store.status()).version.startswith("3.")
    await store.close()
    await again.stop()


async def test_only_its_owner_reads_the_state(tmp_path: Path) -> None:
    """Everything under the directory is closed to others, and no port is open."""
    etcd = ManagedEtcd(tmp_path)
    await etcd.start()
    store = EtcdStore(etcd.config)
    await store.start()
    directory = tmp_path / "etcd"
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    for name in ("etcd.log", "etcd.pid", "etcd.lock"):
        assert not (directory / name).stat().st_mode & 0o077, name
    sockets = subprocess.run(["ss", "-Hltnp"], capture_output=True, text=True, timeout=10).stdout
    assert f"pid={etcd.pid}," not in sockets
    await store.close()
    await etcd.stop()


async def test_a_killed_etcd_is_restarted(tmp_path: Path) -> None:
    """The store reaches the new child by itself and has lost nothing."""
    etcd = ManagedEtcd(tmp_path)
    await etcd.start()
    store = EtcdStore(etcd.config)
    await store.start()
    await store.commit((a_node("a"),), None)
    first = etcd.pid
    os.kill(first, signal.SIGKILL)
    await until(lambda: etcd.pid != first and not etcd.reason)
    await until(lambda: store.behind_reason)
    await until(lambda: not store.behind_reason)
    await store.commit((a_node("b"),), None)
    assert {("", "a"), ("", "b")} == set(store.tables.nodes)
    await store.close()
    await etcd.stop()


async def test_a_left_over_etcd_is_adopted(tmp_path: Path) -> None:
    """After kill -9 of the controller the next one takes over the same process, supervises it
    and ends it."""
    controller, pid = a_controller(tmp_path)
    controller.kill()
    controller.wait(10)
    assert alive(pid)
    etcd = ManagedEtcd(tmp_path)
    before = time.monotonic()
    await etcd.start()
    assert time.monotonic() - before < 1
    assert pid == etcd.pid
    store = EtcdStore(etcd.config)
    await store.start()
    await store.commit((a_node("a"),), None)
    os.kill(pid, signal.SIGKILL)
    await until(lambda: etcd.pid != pid and not etcd.reason)
    await store.close()
    second = etcd.pid
    await etcd.stop()
    assert not alive(second)


async def test_a_left_over_with_other_flags_is_replaced(tmp_path: Path) -> None:
    """An etcd an older controller started differently is ended, never run beside the new one."""
    controller, pid = a_controller(tmp_path)
    controller.kill()
    controller.wait(10)
    link = tmp_path / "etcd-of-another-version"
    link.symlink_to("/usr/bin/etcd")
    etcd = ManagedEtcd(tmp_path, binary=str(link))
    await etcd.start()
    assert etcd.pid != pid
    assert not alive(pid)
    await etcd.stop()


async def test_one_supervisor_at_a_time(tmp_path: Path) -> None:
    """A second controller on the same state directory is refused with a sentence."""
    controller, pid = a_controller(tmp_path)
    with pytest.raises(ManagedEtcdFailed, match="another controller"):
        await ManagedEtcd(tmp_path).start()
    controller.kill()
    controller.wait(10)
    etcd = ManagedEtcd(tmp_path)
    await etcd.start()
    assert pid == etcd.pid
    await etcd.stop()


async def test_a_reused_pid_is_left_alone(tmp_path: Path) -> None:
    """A pid file about a process that is gone never makes a stranger be killed or adopted."""
    directory = tmp_path / "etcd"
    directory.mkdir()
    stranger = subprocess.Popen(["sleep", "60"])
    fields = Path(f"/proc/{stranger.pid}/stat").read_text().split()
    fields[21] = "1"  # another start time
    (directory / "etcd.pid").write_text(" ".join(fields))
    etcd = ManagedEtcd(tmp_path)
    await etcd.start()
    assert etcd.pid != stranger.pid
    await etcd.stop()
    assert stranger.poll() is None
    stranger.kill()
    stranger.wait(5)


async def test_a_long_state_directory(tmp_path: Path) -> None:
    """Paths longer than a socket address work all the same."""
    state = tmp_path / ("long" * 30)
    etcd = ManagedEtcd(state)
    await etcd.start()
    store = EtcdStore(etcd.config)
    await store.start()
    await store.commit((a_node("a"),), None)
    await store.close()
    await etcd.stop()


async def test_no_etcd_installed(tmp_path: Path) -> None:
    """The sentence says what to install or to use instead."""
    with pytest.raises(ManagedEtcdFailed, match="etcd-server"):
        await ManagedEtcd(tmp_path, binary="no-such-etcd").start()


async def test_a_killed_leader_blocks_nobody(tmp_path: Path) -> None:
    """Nobody else can speak to a managed etcd: the next controller leads without waiting for
    its killed predecessor's lease."""
    etcd = ManagedEtcd(tmp_path)
    await etcd.start()
    killed, store = EtcdStore(etcd.config), EtcdStore(etcd.config)
    await killed.start()
    first = await killed.take_lead("killed", 60)
    assert first
    await store.start()
    assert await store.take_lead("next", 60)
    with pytest.raises(Deposed):
        await killed.commit((a_node("a"),), first.guard)
    await killed.close()
    await store.close()
    await etcd.stop()


async def test_the_log_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """etcd goes on writing into the file that was cut; what was there is kept aside, privately."""
    monkeypatch.setattr("controller.store.etcd.managed.LOG_BYTES_MAX", 2000)
    monkeypatch.setattr("controller.store.etcd.managed.LOG_INTERVAL_S", 0.1)
    etcd = ManagedEtcd(tmp_path)
    await etcd.start()
    store = EtcdStore(etcd.config)
    await store.start()
    current, aside = tmp_path / "etcd/etcd.log", tmp_path / "etcd/etcd.log.1"
    await until(lambda: aside.exists() and current.stat().st_size < 2000)
    assert not aside.stat().st_mode & 0o077
    await store.close()
    await etcd.stop()
    assert b"terminated" in current.read_bytes()
