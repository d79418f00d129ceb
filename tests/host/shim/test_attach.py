"""At the streams of a container's own process: its terminal or its pipe, several at once."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from agent import logs
from agent.shims import Attachment, Shims
from tests.host.shim.bundles import process
from tests.host.shim.conftest import MakeBundle, next_exit, processes_of
from tests.patience import PATIENCE


class Reader:
    """Collects what an attachment gives."""

    def __init__(self, attachment: Attachment) -> None:
        self.attachment = attachment
        self.text = b""
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for _, piece in self.attachment:
            self.text += piece

    async def until(self, text: bytes) -> None:
        async with asyncio.timeout(15 * PATIENCE):
            while text not in self.text:
                assert not self._reading.done(), self.text
                await asyncio.sleep(0.01)

    async def end(self) -> int:
        async with asyncio.timeout(15 * PATIENCE):
            await self._reading
            return await self.attachment.wait()


def with_terminal(directory: Path) -> Path:
    """The bundle's process gets a terminal."""
    config = json.loads((directory / "config.json").read_text())
    config["process"]["terminal"] = True
    (directory / "config.json").write_text(json.dumps(config))
    return directory


async def start(shims: Shims, directory: Path, *, stdin: bool = False) -> None:
    await shims.create(directory.name, directory, stdin=stdin)
    await shims.run(directory.name)


async def lines(directory: Path) -> list[str]:
    return [r.line.decode() async for r in logs.read(directory / "log")]


async def test_a_pipe_for_input(shims: Shims, bundle: MakeBundle) -> None:
    """What is written is read; a prompt is seen before its line ends; the end is told."""
    script = "printf 'who? '; read name; echo hello $name; exit 3"
    directory = bundle("c", "sh", "-c", script)
    await shims.create("c", directory, stdin=True)
    attachment = await shims.attach("c")
    assert attachment.stdin
    assert not attachment.terminal
    reader = Reader(attachment)
    await shims.run("c")
    await reader.until(b"who? ")
    await attachment.write(b"ada\n")
    assert await reader.end() == 3
    assert reader.text == b"who? hello ada\n"
    await attachment.close()


async def test_a_terminal_with_a_size(shims: Shims, bundle: MakeBundle) -> None:
    """It is the process's controlling terminal; what is typed comes back as a terminal has it."""
    script = "tty; stty size; read x; stty size; echo got $x"
    directory = with_terminal(bundle("c", "sh", "-c", script))
    await start(shims, directory)
    attachment = await shims.attach("c")
    assert attachment.terminal
    assert attachment.stdin
    reader = Reader(attachment)
    await attachment.resize(33, 101)
    await attachment.write(b"word\n")
    assert await reader.end() == 0
    await attachment.close()
    assert reader.text.endswith(b"33 101\r\ngot word\r\n")
    text = await lines(directory)
    assert text[0] == "/dev/pts/0\r"
    assert text[-1] == "got word\r"


async def test_several_see_the_same_and_go_as_they_please(shims: Shims, bundle: MakeBundle) -> None:
    """Who detaches ends nothing, also with input; the others see what either one types."""
    directory = bundle("c", "sh", "-c", "while read x; do echo got $x; done")
    await start(shims, directory, stdin=True)
    first, second = [Reader(await shims.attach("c")) for _ in range(2)]
    await first.attachment.write(b"one\n")
    await second.until(b"got one\n")
    await first.until(b"got one\n")
    await first.attachment.close_stdin()
    await first.attachment.close()
    await second.attachment.write(b"two\n")
    await second.until(b"got two\n")
    await shims.kill("c")
    assert await second.end() == 137
    await second.attachment.close()


async def test_input_outlives_the_agent(shims: Shims, state: Path, bundle: MakeBundle) -> None:
    """Another agent attaches to the terminal that the shim has kept."""
    script = "stty -echo; while read x; do echo got $x; done"
    directory = with_terminal(bundle("c", "sh", "-c", script))
    await start(shims, directory)
    await shims.close()
    other = Shims(state)
    await other.start()
    await other.adopt()
    reader = Reader(await other.attach("c"))
    await reader.attachment.write(b"still\n")
    await reader.until(b"got still\r\n")
    await other.delete("c", keep_log=False)
    assert await reader.end() == 137
    await reader.attachment.close()
    await other.close()


async def test_nothing_to_write_to(shims: Shims, bundle: MakeBundle) -> None:
    """Without stdin or a terminal there is only to be read, from now on."""
    directory = bundle("c", "sh", "-c", "echo before; read x || echo none; exec sleep 1000")
    await start(shims, directory)
    async with asyncio.timeout(15 * PATIENCE):
        while len(await lines(directory)) < 2:
            await asyncio.sleep(0.01)
    attachment = await shims.attach("c")
    assert not attachment.stdin
    reader = Reader(attachment)
    await attachment.write(b"nowhere")
    await shims.kill("c")
    assert await reader.end() == 137
    assert reader.text == b""
    await attachment.close()


async def test_who_does_not_read_holds_up_only_who_writes(shims: Shims, bundle: MakeBundle) -> None:
    """A container that never reads its input; write() ends with it."""
    directory = bundle("c", "sleep", "1000")
    await start(shims, directory, stdin=True)
    attachment = await shims.attach("c")
    writing = asyncio.create_task(attachment.write(b"x" * (1 << 20)))
    await asyncio.sleep(0.1)
    assert not writing.done()
    await shims.kill("c")
    async with asyncio.timeout(15 * PATIENCE):
        await writing
    await attachment.close()


async def test_a_terminal_that_nobody_has_open_costs_nothing(
    shims: Shims, bundle: MakeBundle
) -> None:
    """A process that closes its terminal and opens it again is heard, and the shim sleeps while
    it is closed."""
    script = (
        'exec sh -c \'trap "" HUP; exec <&- >&- 2>&-; '
        "while [ ! -e /tmp/go ]; do sleep 0.05; done; echo again >/dev/pts/0; exec sleep 1000'"
    )
    directory = with_terminal(bundle("c", "sh", "-c", script))
    await start(shims, directory)
    attachment = await shims.attach("c")
    reader = Reader(attachment)
    pid = _shim_of(directory)
    await asyncio.sleep(0.3)
    before = _cpu_ticks(pid)
    await asyncio.sleep(0.5)
    assert _cpu_ticks(pid) - before <= 5
    assert await (await shims.exec("c", process("sh", "-c", "echo > /tmp/go"))).wait() == 0
    await reader.until(b"again\r\n")
    await shims.kill("c")
    exited = await next_exit(shims)
    assert exited.uid == "c"
    await attachment.close()


def _shim_of(directory: Path) -> int:
    (found,) = [
        pid
        for pid in processes_of(directory)
        if Path(f"/proc/{pid}/comm").read_text().strip() == "bayplan-shim"
    ]
    return found


def _cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])
