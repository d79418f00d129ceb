"""Containers under real shims: life, output, signals, the ways to end."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

from agent.logs import read
from agent.runtime.cgroups import Kind
from agent.shim import container, protocol
from agent.shims import ShimError, Shims, State, fleet
from agent.shims.channel import greet
from tests.host.shim.conftest import MakeBundle, alive, eventually, next_exit, processes_of


async def start(shims: Shims, bundle: MakeBundle, uid: str, *args: str, memory: int = 0) -> int:
    """A running container; the pid of its init."""
    created = await shims.create(uid, bundle(uid, *args, memory_bytes=memory))
    await shims.run(uid)
    return created.pid


async def log(state: Path, uid: str) -> list[tuple[str, bytes]]:
    """Stream and line of everything a task has logged."""
    directory = state / "tasks" / uid / "log"
    return [(record.stream, record.line) async for record in read(directory)]


async def test_output_and_exit_code(shims: Shims, bundle: MakeBundle, state: Path) -> None:
    """Both streams are in the log when the exit is told, and the exit is on disk."""
    await start(shims, bundle, "a", "sh", "-c", "echo out; echo err >&2; printf rest; exit 7")
    exited = await next_exit(shims)
    assert (exited.uid, exited.exit_code, exited.signal, exited.oom_killed) == ("a", 7, 0, False)
    assert abs(exited.at - time.time()) < 10
    assert sorted(await log(state, "a")) == [
        ("stderr", b"err"),
        ("stdout", b"out"),
        ("stdout", b"rest"),
    ]
    record = protocol.read_exit(str(state / "tasks/a"))
    assert record is not None
    assert record.exit_code == 7


async def test_a_created_container_is_held(shims: Shims, bundle: MakeBundle, state: Path) -> None:
    """Between create and run the init exists and the command has not begun."""
    created = await shims.create("held", bundle("held", "echo", "begun"))
    await asyncio.sleep(0.1)
    assert alive(created.pid)
    assert await log(state, "held") == []
    await shims.run("held")
    assert (await next_exit(shims)).exit_code == 0
    assert await log(state, "held") == [("stdout", b"begun")]


def waiting(shims: Shims) -> list[int]:
    """Processes that spares have cloned ahead."""
    below = [pid for shim in children(shims.zygote_pid) for pid in children(shim)]
    return [pid for pid in below if Path(f"/proc/{pid}/comm").read_text() == "bayplan-init\n"]


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


async def test_what_is_cloned_ahead_holds_nothing(shims: Shims, bundle: MakeBundle) -> None:
    """It has a socket alone, becomes the next container's init, and ends with the spares."""
    if container.preload().hierarchy.kind is Kind.V2:
        assert waiting(shims) == []
        return
    await eventually(lambda: len(waiting(shims)) == 2)
    ahead = waiting(shims)

    def held(pid: int) -> list[str]:
        """All but 0, 1 and 2; a rehearsal may still be under way."""
        fds = sorted(int(fd) for fd in os.listdir(f"/proc/{pid}/fd"))
        return [os.readlink(f"/proc/{pid}/fd/{fd}").partition(":")[0] for fd in fds if fd > 2]

    await eventually(lambda: all(held(pid) == ["socket"] for pid in ahead))
    ahead.remove(await start(shims, bundle, "next", "sleep", "60"))
    await shims.delete("next")
    await shims.close()
    await eventually(lambda: not alive(ahead[0]))


async def test_a_held_container_can_be_deleted(shims: Shims, bundle: MakeBundle) -> None:
    """A task withdrawn before its network was up leaves nothing."""
    created = await shims.create("held", bundle("held", "true"))
    await shims.delete("held")
    assert not alive(created.pid)


async def test_signals_reach_the_init(shims: Shims, bundle: MakeBundle) -> None:
    """A trap sees SIGTERM; SIGKILL shows as 137."""
    await start(
        shims, bundle, "t", "sh", "-c", "trap 'exit 3' TERM; echo up; while :; do sleep 0.05; done"
    )
    await asyncio.sleep(0.2)
    await shims.signal("t", signal.SIGTERM)
    assert (await next_exit(shims)).exit_code == 3
    await start(shims, bundle, "k", "sleep", "100")
    await shims.kill("k")
    exited = await next_exit(shims)
    assert (exited.exit_code, exited.signal, exited.reason) == (137, 9, "")


async def test_a_signal_after_the_end_is_refused(shims: Shims, bundle: MakeBundle) -> None:
    """There is nothing left to signal, and the caller hears so."""
    await start(shims, bundle, "gone", "true")
    await next_exit(shims)
    with pytest.raises(ShimError):
        await shims.signal("gone", signal.SIGTERM)


async def test_a_command_that_does_not_exist(shims: Shims, bundle: MakeBundle) -> None:
    """run() says what could not be executed; the exit says it never started."""
    await shims.create("no", bundle("no", "/bin/nonesuch"))
    with pytest.raises(ShimError, match="nonesuch"):
        await shims.run("no")
    exited = await next_exit(shims)
    assert (exited.uid, exited.reason) == ("no", "start_failed")


@pytest.mark.parametrize("later_s", [0.0, 0.3])
async def test_a_bundle_that_is_wrong(
    shims: Shims, bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch, later_s: float
) -> None:
    """create() names the field, however late the agent's hello is written; nothing is created and
    no exit follows."""

    async def greet_later(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> object:
        await asyncio.sleep(later_s)
        return await greet(reader, writer)

    monkeypatch.setattr(fleet, "greet", greet_later)
    path = bundle("wrong", "true")
    (path / "config.json").write_text("{}")
    with pytest.raises(ShimError, match="ociVersion"):
        await shims.create("wrong", path)
    await shims.delete("wrong")
    assert not path.exists()


async def test_out_of_memory_is_told_apart(shims: Shims, bundle: MakeBundle) -> None:
    """A container that the kernel kills for its memory says so; one that is killed does not."""
    hog = "x=0123456789abcdef; while :; do x=$x$x; done"
    await start(shims, bundle, "hog", "sh", "-c", hog, memory=16 << 20)
    exited = await next_exit(shims)
    assert (exited.exit_code, exited.oom_killed) == (137, True)


async def test_nobody_reads_and_the_disk_is_bounded(
    shims: Shims, bundle: MakeBundle, state: Path
) -> None:
    """A container that writes more than is kept ends by itself, its newest output kept."""
    await shims.delete("flood")
    await start(
        shims, bundle, "flood", "sh", "-c", "yes 0123456789 | head -c 40000000; echo; echo end"
    )
    assert (await next_exit(shims)).exit_code == 0
    directory = state / "tasks/flood/log"
    assert sum(path.stat().st_size for path in directory.iterdir()) <= 3 * (10 << 20)
    assert [record.line async for record in read(directory, tail=1)] == [b"end"]


async def test_a_restart_goes_on_in_the_same_log(
    shims: Shims, bundle: MakeBundle, state: Path
) -> None:
    """delete(keep_log=True) and create again: one log with both runs."""
    for word in ("one", "two"):
        await start(shims, bundle, "again", "echo", word)
        await next_exit(shims)
        await shims.delete("again", keep_log=True)
    assert await log(state, "again") == [("stdout", b"one"), ("stdout", b"two")]


async def test_the_fence_holds(shims: Shims, bundle: MakeBundle) -> None:
    """At its deadline the container ends, marked as fenced; a moved deadline counts anew."""
    pid = await start(shims, bundle, "fenced", "sleep", "100")
    boottime_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    await shims.fence("fenced", boottime_ns + 100_000_000)
    await shims.fence("fenced", boottime_ns + 400_000_000)
    await asyncio.sleep(0.25)
    assert alive(pid)
    exited = await next_exit(shims)
    assert (exited.exit_code, exited.reason) == (137, "fenced")


async def test_a_dead_shim_takes_its_container_along(
    shims: Shims, bundle: MakeBundle, state: Path
) -> None:
    """Nobody would record its end: it is killed and reported as lost."""
    pid = await start(shims, bundle, "lost", "sleep", "100")
    shim = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    assert Path(f"/proc/{shim}/comm").read_text() == "bayplan-shim\n"
    os.kill(shim, signal.SIGKILL)
    exited = await next_exit(shims)
    assert (exited.uid, exited.reason) == ("lost", "shim_lost")
    await eventually(lambda: not alive(pid))
    assert protocol.read_exit(str(state / "tasks/lost")) is not None


async def test_a_dead_zygote_is_replaced(shims: Shims, bundle: MakeBundle) -> None:
    """Its shims live on and new ones can be forked at once."""
    pid = await start(shims, bundle, "before", "sleep", "100")
    old = shims.zygote_pid
    os.kill(old, signal.SIGKILL)
    await eventually(lambda: shims.zygote_pid != old)
    after = await start(shims, bundle, "after", "sleep", "100")
    assert alive(pid)
    assert alive(after)


async def test_the_interpreter_cannot_be_written_through_a_shim(
    shims: Shims, bundle: MakeBundle
) -> None:
    """/proc/PID/exe of zygote and shim lies on a read-only mount, even for root."""
    created = await shims.create("held", bundle("held", "sleep", "100"))
    for pid in (shims.zygote_pid, created.pid):
        with pytest.raises(OSError, match=r"Read-only|busy"):
            open(f"/proc/{pid}/exe", "r+b").close()


async def test_adoption_in_the_same_process(shims: Shims, bundle: MakeBundle, state: Path) -> None:
    """A second agent finds held, running and exited containers as they are."""
    held = await shims.create("held", bundle("held", "true"))
    running = await start(shims, bundle, "running", "sleep", "100")
    await start(shims, bundle, "exited", "sh", "-c", "exit 5")
    await next_exit(shims)
    second = Shims(state)
    await second.start()
    try:
        adopted = {found.uid: found for found in await second.adopt()}
        assert (adopted["held"].state, adopted["held"].pid) == (State.CREATED, held.pid)
        assert (adopted["running"].state, adopted["running"].pid) == (State.RUNNING, running)
        exited = adopted["exited"].exited
        assert exited is not None
        assert exited.exit_code == 5
    finally:
        await second.close()


async def test_a_shim_goes_on_with_the_next_container(
    shims: Shims, bundle: MakeBundle, state: Path
) -> None:
    """One after the other, ever new processes are not needed; what the containers wrote and how
    they ended is not mixed up, and of a deleted container the shim holds nothing open."""
    seen = set()
    for number in range(12):
        uid = f"n{number}"
        created = await shims.create(uid, bundle(uid, "sh", "-c", f"echo {uid}; exit {number}"))
        stat = Path(f"/proc/{created.pid}/stat").read_text()
        shim = int(stat.rpartition(")")[2].split()[1])
        seen.add(shim)
        await shims.run(uid)
        exited = await next_exit(shims)
        assert (exited.uid, exited.exit_code) == (uid, number)
        assert await log(state, uid) == [("stdout", uid.encode())]
        await shims.delete(uid)
        await eventually(lambda: processes_of(state) == [])
    assert len(seen) < 8


async def test_a_burst_leaves_few_spares(shims: Shims, bundle: MakeBundle, state: Path) -> None:
    """Of the shims of many containers at once most end with them."""

    def spares() -> int:
        children = Path(f"/proc/{shims.zygote_pid}/task/{shims.zygote_pid}/children")
        names = [Path(f"/proc/{pid}/comm").read_text() for pid in children.read_text().split()]
        return names.count("bayplan-shim\n")

    await asyncio.gather(*(start(shims, bundle, f"b{n}", "sleep", "60") for n in range(10)))
    assert spares() >= 10
    await asyncio.gather(*(shims.delete(f"b{number}") for number in range(10)))
    await eventually(lambda: spares() <= 4)


TICKER = ("sh", "-c", "while :; do echo tick; sleep 0.02; done")


async def test_a_pause_stops_everything_and_survives_the_agent(
    shims: Shims, bundle: MakeBundle, state: Path
) -> None:
    """Nothing is written while it lasts; another agent sees it, and lets the container go on."""
    await start(shims, bundle, "p", *TICKER)
    await eventually_logs(state, 1)
    await shims.pause("p")
    before = len(await log(state, "p"))
    await asyncio.sleep(0.3)
    assert len(await log(state, "p")) <= before + 1  # what was in the pipe
    other = Shims(state)
    (adopted,) = await other.adopt()
    assert (adopted.state, adopted.paused) == (State.RUNNING, True)
    before = len(await log(state, "p"))
    await other.unpause("p")
    await eventually_logs(state, before + 2)
    await other.close()


async def test_a_paused_container_can_be_killed(shims: Shims, bundle: MakeBundle) -> None:
    """By SIGKILL to its cgroup, with nobody who lets it go on."""
    await start(shims, bundle, "p", *TICKER)
    await shims.pause("p")
    await shims.kill("p")
    assert (await next_exit(shims)).signal == signal.SIGKILL
    with pytest.raises(ShimError, match="has ended"):
        await shims.pause("p")


async def eventually_logs(state: Path, count: int) -> None:
    async with asyncio.timeout(30):
        while len(await log(state, "p")) < count:
            await asyncio.sleep(0.02)


async def test_what_the_host_lacks_is_no_fault_of_the_container(
    shims: Shims, bundle: MakeBundle
) -> None:
    """No room for the exit record, as on a full disk: it may be tried again."""
    directory = bundle("c", "true")
    (directory / "exit.json.new").mkdir()
    with pytest.raises(ShimError) as refused:
        await shims.create("c", directory)
    assert refused.value.reason == "system"
