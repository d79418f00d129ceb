"""What a controller keeps over its own end, and how it ends."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.controller.agents import Host
from tests.integration.controller.running import Running, a_node, a_service, applying, fetch


async def test_kill_keeps_everything(own: Running) -> None:
    """After kill -9 the next controller adopts etcd and knows every service, node and
    credential."""
    own.start()
    credentials = await a_node(own, "h1")
    async with own.client() as client:
        await client.apply(applying(a_service("kept", replicas=3)))
        before = await client.get_service("default", "kept")
    etcd = own.etcd_pid()
    own.kill()
    own.start()
    assert own.etcd_pid() == etcd
    async with own.client() as client:
        after = await client.get_service("default", "kept")
        assert after.service == before.service
        scaled = await client.scale("default", "kept", 4)
        assert scaled.revision > before.revision
    async with Host("h1", own.addresses["control"], credentials) as host:
        async with asyncio.timeout(15):
            await host.welcomed.wait()


async def test_stop_is_clean_and_quick(own: Running) -> None:
    """SIGTERM: exit code 0 in under five seconds, with operators' streams open, and neither etcd
    nor the registry stays; the next start leads at once."""
    own.start()
    async with own.client() as client:
        await client.apply(applying(a_service("watched")))
        watch = client.watch_service("default", "watched")
        await anext(watch)
        etcd = own.etcd_pid()
        code, took_s = await asyncio.to_thread(own.terminate)
    assert code == 0, own.log()
    assert took_s < 5
    assert not Path(f"/proc/{etcd}").exists()
    own.start()
    async with own.client() as client, asyncio.timeout(5):
        await client.scale("default", "watched", 1)


async def test_etcd_dies_and_comes_back(own: Running) -> None:
    """Reads go on from the mirror, writes resume once etcd is supervised back."""
    own.start()
    async with own.client() as client:
        await client.apply(applying(a_service("through")))
        os.kill(own.etcd_pid(), 9)
        assert (await client.get_service("default", "through")).service.name == "through"
        async with asyncio.timeout(30):
            while True:
                try:
                    await client.scale("default", "through", 5)
                    break
                except Exception:  # noqa: BLE001 - whatever it is, it must pass
                    await asyncio.sleep(0.2)
        assert (await client.get_service("default", "through")).service.replicas == 5


def test_stop_while_it_waits_for_etcd(tmp_path: Path) -> None:
    """An etcd that does not answer does not hold up SIGTERM."""
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "controller",
            f"--state-dir={tmp_path}",
            "--etcd=http://127.0.0.1:9",
        ],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    assert "reading the store" in process.stderr.readline()
    process.terminate()
    assert process.wait(5) == 0


def test_wrong_settings_are_one_sentence() -> None:
    """Exit code 2 and one line that names the setting."""
    ended = subprocess.run(
        [sys.executable, "-m", "controller", "--listen", "everywhere"],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert ended.returncode == 2
    assert ended.stderr == (
        "bayplan-controller: --listen 'everywhere' is not HOST:PORT, e.g. 0.0.0.0:7443\n"
    )


def test_a_port_in_use_is_one_sentence(own: Running, tmp_path: Path) -> None:
    """The second controller on the same port says which, and leaves nothing."""
    own.start()
    other = Running(tmp_path / "other", f"--listen={own.addresses['control']}")
    other.state.parent.mkdir()
    with pytest.raises(AssertionError) as failed:
        other.start()
    other.clean()
    assert f"cannot listen on {own.addresses['control']} (--listen)" in str(failed.value)


async def test_a_log_on_a_full_disk_ends_nobody(tmp_path: Path) -> None:
    """No line can be written: the controller starts, serves, counts the lines and stops with 0."""
    running = Running(tmp_path, log=Path("/dev/full"))
    try:
        running.start()
        async with running.client() as client:
            await client.apply(applying(a_service("unheard")))
            assert (await client.get_service("default", "unheard")).service.spec.name == "unheard"
        status, body = await asyncio.to_thread(fetch, running, "/metrics", running.state / "admin")
        assert status == 200
        (lost,) = re.findall(rb"^bayplan_controller_log_lines_lost_total (.*)$", body, re.MULTILINE)
        assert float(lost) > 0
        assert running.terminate()[0] == 0
    finally:
        running.clean()
