"""Drains against a disruption budget, on real hosts."""

from __future__ import annotations

import pytest

from tests.e2e.rig import Rig, a_service

pytestmark = [pytest.mark.e2e, pytest.mark.root, pytest.mark.timeout(180)]


def test_a_budget_blocks_a_drain_until_its_deadline(cluster: Rig) -> None:
    """Beforehand and on the way it is said which task may not go and what would let it."""
    spec = a_service(
        "shop",
        update="{max_surge: 0, max_unavailable: 1, monitor: 500ms}",
        disruption="{max_unavailable: 1}",
    )
    cluster.bay("apply", "-", stdin=spec)
    node = cluster.tasks("shop")[0]["task"]["node"]
    foretold = cluster.bay("node", "drain", node, "--dry-run")
    assert "stops, then its successor starts: shop." in foretold
    assert not cluster.node(node)["node"]["draining"]
    strict = spec.replace("disruption: {max_unavailable: 1}", "disruption: {min_available: 3}")
    strict = strict.replace("replicas: 3\n", "")  # what no budget could be held against at once
    cluster.bay("apply", "-", stdin=strict)
    refused = cluster.run("node", "drain", node, timeout_s=60)
    assert refused.returncode == 8
    assert "the disruption budget of shop (min_available 3) spares none of 3" in refused.stderr
    cluster.ready("shop", 3)
    cluster.bay("node", "drain", node, "--deadline", "2s", timeout_s=60)
    cluster.ready("shop", 3)
    assert node not in {t["task"]["node"] for t in cluster.tasks("shop")}
    cluster.bay("node", "uncordon", node)
