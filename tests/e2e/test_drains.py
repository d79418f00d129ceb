"""Drains against a disruption budget, on real hosts."""

from __future__ import annotations

import json
from collections import Counter

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


def test_what_was_foretold_of_a_drain_comes_and_a_rebalance_undoes_it(cluster: Rig) -> None:
    """`bay whatif` and the dry run name the nodes the tasks then go to; afterwards the empty node
    gets tasks back."""
    cluster.bay("apply", "-", stdin=a_service("even", replicas=6))
    assert spread(cluster) == [2, 2, 2]
    node = cluster.tasks("even")[0]["task"]["node"]
    before = where(cluster)
    supposed = json.loads(cluster.bay("whatif", "--drain", node, "-o", "json"))
    (even,) = (s for s in supposed["services"] if s["service"] == "even")
    assert (supposed["short"], even["leaving"]) == (0, 2)
    foretold = {p["node"]: p["tasks"] for p in even["placed"]}
    assert "to: default/even: " in cluster.bay("node", "drain", node, "--dry-run")
    cluster.bay("node", "drain", node, timeout_s=90)
    assert where(cluster) - before == Counter(foretold)
    cluster.bay("node", "uncordon", node)
    dry = cluster.bay("rebalance", "--dry-run")
    assert "nothing was changed" in dry
    assert f" {node} " in dry
    done = cluster.bay("rebalance", "--max-moves", "4", timeout_s=120)
    assert done.endswith("tasks have moved\n")
    assert spread(cluster) == [2, 2, 2]
    assert "any one" in cluster.bay("whatif")


def where(cluster: Rig) -> Counter[str]:
    return Counter(t["task"]["node"] for t in cluster.tasks("even"))


def spread(cluster: Rig) -> list[int]:
    return sorted(where(cluster).values())
