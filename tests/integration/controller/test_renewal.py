"""Certificates that are renewed under way: no restart, no call that fails.

The controller is a real one that looks at its certificate each second. What it issues begins an
hour before and ends 25 minutes after: two thirds are over from the first moment, so that all of it
is due at each look, and nothing ends while a slow machine tests.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bayplan import pki
from bayplan.wire._pb.bayplan.v1 import types_pb2
from tests.integration.controller.running import Running, a_context, a_service, a_user, applying

LIMIT_S = 60.0
SHORT = """
import os
import sys
from bayplan import pki
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"  # before grpc is imported, as its own entry does
for issue in (pki.issue, pki.make_credentials):
    issue.__kwdefaults__["lifetime_s"] = 1500.0
pki.BACKDATE_S = 3600.0
from controller.server import faces
faces.RENEW_CHECK_S = 1.0
from controller.__main__ import main
sys.exit(main())
"""


@pytest.fixture(scope="module")
def renewing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    made = Running(tmp_path_factory.mktemp("renewing"), program=("-c", SHORT))
    made.start()
    yield made
    made.clean()


def serials(running: Running) -> dict[str, str]:
    """Of the certificates that a new connection to each listener is shown."""
    found = {}
    for name in ("control", "join", "registry", "web"):
        host, _, port = running.addresses[name].rpartition(":")
        pem = ssl.get_server_certificate((host, int(port)), timeout=10)
        found[name] = pki.peer_identity(pem).serial_hex
    return found


async def test_a_controller_renews_while_it_serves(renewing: Running) -> None:
    """All its listeners show a new certificate on new connections; one that was open before, with a
    stream on it, goes on, and so does the pid."""
    before = await asyncio.to_thread(serials, renewing)
    async with renewing.client() as client:
        await client.apply(applying(a_service("watched")))
        watch = client.watch_service("default", "watched")
        await anext(watch)
        deadline = time.monotonic() + LIMIT_S
        while True:
            await client.get_version()
            now = await asyncio.to_thread(serials, renewing)
            if all(now[name] != before[name] for name in before):
                break
            assert time.monotonic() < deadline, (before, now)
            await asyncio.sleep(0.2)
        await client.scale("default", "watched", 5)
        async with asyncio.timeout(LIMIT_S):
            while (await anext(watch)).service.replicas != 5:
                pass
    async with renewing.client() as fresh:
        assert (await fresh.get_service("default", "watched")).service.replicas == 5


async def test_bay_renews_what_it_uses(renewing: Running, tmp_path: Path) -> None:
    """Each use of a certificate that is due replaces it in the context, its key stays, and the next
    use goes with the new one."""
    credentials = await a_user(renewing, "rita", types_pb2.ROLE_VIEWER)
    environment = {**os.environ, **a_context(renewing, tmp_path, credentials)}
    (certificate,) = tmp_path.rglob("*cert*.pem")
    seen = [pki.peer_identity(certificate.read_text()).serial_hex]
    for _ in range(2):
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "bayplan.cli", "whoami"],
            capture_output=True,
            text=True,
            timeout=60,
            env=environment,
        )
        assert (done.returncode, done.stderr) == (0, ""), done
        assert "rita" in done.stdout
        seen.append(pki.peer_identity(certificate.read_text()).serial_hex)
    assert len(set(seen)) == 3
    assert certificate.stat().st_mode & 0o777 == 0o600
