"""Runs the registry as a child: started with the controller, restarted where it ends."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from bayplan.model.errors import Unavailable
from bayplan.model.identity import Role
from controller.registry import access
from controller.tables import Tables

log = structlog.get_logger(__name__)

START_S: Final = 120.0
"""A Python program starts: seconds on a slow machine, where a controller that gave up on it and
began anew would come no further the next time."""
STOP_S: Final = 3.0
BACKOFF_MIN_S: Final = 0.2
BACKOFF_MAX_S: Final = 10.0
STEADY_S: Final = 30.0


class RegistryFailed(Unavailable):
    code = "registry_failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """`root`: blobs and manifests; the others are PEM, and the table of who may come in."""

    root: Path
    certificate: Path
    key: Path
    ca: Path
    access: Path


def holders(tables: Tables) -> Mapping[str, access.Holder]:
    """Who may pull and push, by certificate serial: nodes and viewers pull, others push."""
    found: dict[str, access.Holder] = {}
    for node in (s.value for s in tables.nodes.values()):
        for serial in node.certificate_serials:
            found[serial] = access.Holder(node.name, access.Access.PULL)
    for identity in (s.value for s in tables.identities.values()):
        may = access.Access.PULL if identity.role is Role.VIEWER else access.Access.PUSH
        for serial in identity.certificate_serials:
            found[serial] = access.Holder(identity.name, may)
    return found


class RegistryChild:
    """`start` once, `run` until cancelled, `stop`. `port` is the one it listens on."""

    def __init__(self, files: Files, host: str, port: int) -> None:
        self._files = files
        self._host = host
        self.port = port
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Returns once it listens. Raises RegistryFailed, which says why."""
        files = self._files
        files.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        host = f"[{self._host}]" if ":" in self._host else self._host
        arguments = {
            "root": files.root,
            "listen": f"{host}:{self.port}",
            "certificate": files.certificate,
            "key": files.key,
            "ca": files.ca,
            "access": files.access,
        }
        # It ends with its standard input, however the controller ends.
        self._process = process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "controller.registry",
            *(f"--{name}={value}" for name, value in arguments.items()),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None, "stdout is a pipe"
        try:
            async with asyncio.timeout(START_S):
                line = await process.stdout.readline()
        except TimeoutError:
            await self.stop()
            raise RegistryFailed(f"the registry did not start within {START_S:g} s") from None
        if not line:
            code = await process.wait()
            raise RegistryFailed(
                f"the registry ended at once with {code}",
                hint="its own message stands above; is --registry-listen free?",
            )
        self.port = int(line.decode().rpartition(":")[2])

    async def run(self) -> None:
        """Start it again whenever it ends. Runs until cancelled."""
        pause_s = BACKOFF_MIN_S
        while True:
            begun = time.monotonic()
            if self._process is not None:
                code = await self._process.wait()
                log.error("registry ended", exit_code=code, again_in_s=pause_s)
            if time.monotonic() - begun > STEADY_S:
                pause_s = BACKOFF_MIN_S
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, BACKOFF_MAX_S)
            try:
                await self.start()
            except RegistryFailed as error:
                log.error("registry does not start", reason=str(error))

    async def stop(self) -> None:
        """End it: gently, then not."""
        process, self._process = self._process, None
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            async with asyncio.timeout(STOP_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
