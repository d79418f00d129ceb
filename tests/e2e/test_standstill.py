"""Processes that stand still for a while and then go on as if nothing had been (SIGSTOP)."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.e2e.rig import Rig, a_service, eventually, load
from tests.e2e.test_survival import a_ticker

pytestmark = [pytest.mark.e2e, pytest.mark.root, pytest.mark.timeout(240)]
STANDSTILL_S = float(os.environ.get("BAYPLAN_TEST_STANDSTILL_S", "12"))
"""Longer than a leader's lease, and than a node has before it is lost."""


@contextmanager
def standing_still(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_controller_stands_still_and_nothing_else_notices(cluster: Rig) -> None:
    """Its lease runs out meanwhile: it takes no node for lost that it could not hear, loses no
    request, and changes work again."""
    spec = a_service("shop", replicas="6", ports="{http: {container: 8080, publish: 8090}}")
    cluster.bay("apply", "-", stdin=spec)
    before = cluster.runs("shop")
    with load(list(cluster.hosts.values()), 8090) as traffic:
        with standing_still(cluster.daemon("controller")):
            time.sleep(STANDSTILL_S)
        eventually("the controller answers", lambda: not cluster.run("get").returncode)
        for host in cluster.hosts:
            eventually(f"{host} ready", lambda host=host: cluster.node_state(host) == "ready")
        time.sleep(8)  # longer than the grace after which a node would be called lost
    assert traffic.failures == []
    assert cluster.runs("shop") == before
    cluster.bay("scale", "shop", "7")
    cluster.ready("shop", 7)
    assert before.items() <= cluster.runs("shop").items()


def test_an_agent_stands_still_and_comes_back(cluster: Rig) -> None:
    """Its tasks run elsewhere by then; the duplicates end, and nothing is missing."""
    cluster.bay("apply", "-", stdin=a_ticker("tick", 6))
    lost = {t["status"]["task"] for t in cluster.tasks("tick") if t["task"]["node"] == "h2"}
    assert len(lost) == 2
    with standing_still(cluster.daemon("h2")):

        def elsewhere() -> bool:
            tasks = cluster.tasks("tick")
            return len(tasks) == 6 and all(t["task"]["node"] != "h2" for t in tasks)

        eventually("six tasks on the other two", elsewhere)
        time.sleep(STANDSTILL_S / 2)
    eventually("h2 is ready", lambda: cluster.node_state("h2") == "ready")
    ticking = "grep -l 'echo tick' /proc/[0-9]*/cmdline 2>/dev/null | wc -l"

    def ended() -> bool:
        # the grep and its shell have the words in their own command lines
        return int(cluster.lab("shell", "h2", "sh", "-c", ticking)) <= 2

    eventually("the duplicates on h2 are gone", ended)
    assert not lost & set(cluster.runs("tick"))
    assert len(cluster.runs("tick")) == 6
