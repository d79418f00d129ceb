"""Files out of a running container and into it, by a process of its own for each copy."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import agent.copier
from agent.shim import container
from bayplan.model.errors import BayplanError, Conflict

COPIES_MAX: Final = 8
"""At once on a host."""
IDLE_S: Final = 60.0
"""How long a copy may stand still, whichever side does not go on."""
LOOK_S: Final = 1.0
CLEAR_UP_S: Final = 5.0
READ_BYTES: Final = 128 * 1024
LINE_BYTES_MAX: Final = 16 * 1024


class CopyError(BayplanError):
    """Why the copy came to nothing, or to a part only."""

    code = "copy"


class Copies:
    """`directory` of a task's container is the caller's to know."""

    def __init__(self) -> None:
        self._running = 0

    async def begin(
        self, directory: Path, *, to_task: bool, path: str, name: str, keep_owners: bool
    ) -> Copy:
        """A copy under way; it must be closed. Raises CopyError, Conflict."""
        if self._running >= COPIES_MAX:
            raise Conflict(f"{COPIES_MAX} copies are under way on this host", hint="try again")
        self._running += 1
        try:
            return await self._begin(directory, to_task, path, name, keep_owners)
        except BaseException:
            self._running -= 1
            raise

    async def _begin(
        self, directory: Path, to_task: bool, path: str, name: str, keep_owners: bool
    ) -> Copy:
        try:
            root, users = container.open_files(str(directory))
        except (container.Failure, OSError) as error:
            raise CopyError("the task has no container at the moment") from error
        fds = [fd for fd in (root, users) if fd >= 0]
        request = {
            "to_task": to_task, "path": path, "name": name, "keep_owners": keep_owners,
            "root": root, "users": users,
        }  # fmt: skip
        program = Path(agent.copier.__file__).with_name("__main__.py")
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-I", "-S", str(program), json.dumps(request),
                stdin=PIPE, stdout=PIPE, stderr=PIPE, pass_fds=fds, cwd="/",
                env={"LANG": "C.UTF-8"}, limit=LINE_BYTES_MAX,
            )  # fmt: skip
        except OSError as error:
            raise CopyError(f"the host refused it: {error.strerror}") from error
        finally:
            for fd in fds:
                os.close(fd)
        return Copy(process, self)

    def ended(self) -> None:
        """For a copy that is closed."""
        self._running -= 1


class Copy:
    """One copy. Write what goes in and `end` it; iterate for what comes out; `wait` for the
    outcome. Standing still for IDLE_S is an error of each of them."""

    def __init__(self, process: Process, copies: Copies) -> None:
        self._process = process
        self._copies = copies
        self._notices: list[str] = []
        self._error = ""
        self._moved_at = time.monotonic()
        self._listening = asyncio.create_task(self._listen(), name="copy-errors")

    async def write(self, data: bytes) -> None:
        """What a process that has ended does not read is dropped; `wait` says why it ended."""
        stdin = self._process.stdin
        assert stdin is not None
        if stdin.is_closing():
            return
        try:
            self._moved_at = time.monotonic()
            stdin.write(data)
            async with asyncio.timeout(IDLE_S):
                await stdin.drain()
        except ConnectionError:
            return
        except TimeoutError:
            raise CopyError(f"the copy stood still for {IDLE_S:g} s") from None

    def end(self) -> None:
        """No more goes in."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        assert self._process.stdout is not None
        while True:
            try:
                async with asyncio.timeout(IDLE_S):
                    data = await self._process.stdout.read(READ_BYTES)
            except TimeoutError:
                raise CopyError(f"the copy stood still for {IDLE_S:g} s") from None
            if not data:
                return
            yield data
            self._moved_at = time.monotonic()

    async def wait(self) -> list[str]:
        """What was left out, once all is copied. Raises CopyError."""
        ending = asyncio.ensure_future(self._process.wait())
        try:
            while not (await asyncio.wait({ending}, timeout=LOOK_S))[0]:
                if time.monotonic() - self._moved_at > IDLE_S:
                    raise CopyError(f"the copy stood still for {IDLE_S:g} s")
            code = ending.result()
        finally:
            ending.cancel()
        await self._listening
        if code:
            raise CopyError(self._error or f"the copying process ended with {code}")
        return self._notices

    async def close(self) -> None:
        """End it, wherever it is. Nobody may be iterating any more."""
        assert self._process.stdout is not None
        try:
            self.end()  # half an archive is an error to it, after which it clears up
            try:
                async with asyncio.timeout(CLEAR_UP_S):
                    while await self._process.stdout.read(READ_BYTES):
                        continue
                    await self._process.wait()
            except TimeoutError:
                self._process.kill()
                await self._process.wait()
        finally:
            self._listening.cancel()
            await asyncio.gather(self._listening, return_exceptions=True)
            self._copies.ended()

    async def _listen(self) -> None:
        assert self._process.stderr is not None
        async for line in self._process.stderr:
            try:
                said = json.loads(line)
            except ValueError:
                self._error = line.decode(errors="replace").strip()[:500]  # a traceback's last
                continue
            self._error = said.get("error", self._error)
            if "notice" in said:
                self._notices.append(said["notice"])
