"""Canary and blue/green, steered by an operator, under load through every host's port."""

from __future__ import annotations

import time

import pytest

from tests.e2e.rig import Rig, a_service, load

pytestmark = [pytest.mark.e2e, pytest.mark.root, pytest.mark.timeout(180)]

PUBLISHED = "{http: {container: 8080, publish: 8090}}"


def words(answers: set[str]) -> set[str]:
    return {answer.split()[0] for answer in answers}


def test_a_canary_is_promoted_without_a_failed_request(cluster: Rig) -> None:
    """One task of six is new until `bay rollout promote`; status says what it waits for."""
    policy = "{max_surge: 1, monitor: 500ms, progress_deadline: 30s, canary: 1}"
    first = a_service("shop", replicas="6", ports=PUBLISHED, update=policy)
    cluster.bay("apply", "-", stdin=first)
    second = a_service("shop", replicas="6", ports=PUBLISHED, update=policy, env="{GREETING: two}")
    with load(list(cluster.hosts.values()), 8090) as traffic:
        said = cluster.bay("apply", "-", stdin=second, timeout_s=60)
        assert "canary: 1 of 6 tasks is v2 and good" in said
        view = cluster.service("shop")
        assert (view["replicas_updated"], view["replicas_ready"], view["status"]) == (
            1,
            6,
            "waiting",
        )
        status = cluster.bay("rollout", "status", "shop")
        assert "Until      until it is told" in status
        assert [line.split()[0] for line in status.splitlines()[-2:]] == ["v2*", "v1"]
        cluster.bay("rollout", "promote", "shop", timeout_s=60)
    assert traffic.failures == []
    assert cluster.service("shop")["rollout"]["state"] == "complete"
    assert words(traffic.answers) == {"one", "two"}


def test_blue_green_switches_and_switches_back_without_a_failed_request(cluster: Rig) -> None:
    """Nobody sees the new version before promote, nor the old one after it; abort is instant."""
    policy = "{strategy: blue_green, monitor: 500ms, progress_deadline: 30s, keep_old: 5m}"
    cluster.bay("apply", "-", stdin=a_service("shop", replicas="6", ports=PUBLISHED, update=policy))
    old = cluster.runs("shop")
    second = a_service("shop", replicas="6", ports=PUBLISHED, update=policy, env="{GREETING: two}")
    hosts = list(cluster.hosts.values())
    with load(hosts, 8090) as before:
        said = cluster.bay("apply", "-", stdin=second, timeout_s=60)
        assert "all 6 tasks of v2 are good, without traffic" in said
        time.sleep(1)
    assert (before.failures, words(before.answers)) == ([], {"one"})
    with load(hosts, 8090) as switching:
        cluster.bay("rollout", "promote", "shop", timeout_s=60)
        time.sleep(1)
    assert (switching.failures, words(switching.answers)) == ([], {"one", "two"})
    with load(hosts, 8090) as after:
        time.sleep(1)
        assert words(after.answers) == {"two"}
        cluster.bay("rollout", "abort", "shop", timeout_s=60)
        time.sleep(1)
    assert after.failures == []
    with load(hosts, 8090) as back:
        time.sleep(0.5)
    assert (back.failures, words(back.answers)) == ([], {"one"})
    cluster.ready("shop", 6)
    assert {name: run for name, run in cluster.runs("shop").items() if name in old} == old
