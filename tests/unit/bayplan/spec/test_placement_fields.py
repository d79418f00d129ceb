"""Placement in YAML: what every field becomes, and what is refused."""

from __future__ import annotations

import pytest

from bayplan.model.service import (
    Affinity,
    DeviceRequest,
    PlacementPolicy,
    ServiceSpec,
    Sticky,
    Toleration,
)
from bayplan.spec import SpecErrors, parse


def a_spec(text: str) -> ServiceSpec:
    (document,) = parse(f"kind: Service\nname: web\nimage: web:1\n{text}\n")
    assert isinstance(document.object, ServiceSpec)
    return document.object


def test_every_field_becomes_a_value() -> None:
    """Short and long forms."""
    spec = a_spec(
        """
priority: -5
resources: {disk: 10GiB, devices: {gpu: {count: 0.5, model: a100}, fpga: 2}}
placement:
  near: [db, {service: shop/cache, over: label.rack, weight: 30}]
  apart: {service: batch, over: label.zone}
  distinct: node
  tolerate: [gpu, {key: team, value: ml}]
  pool: fast
  policy: pack
  sticky: prefer
  gang: true
"""
    )
    placement = spec.placement
    assert spec.priority == -5
    assert spec.template.resources.disk_bytes == 10 << 30
    assert spec.template.devices == (
        DeviceRequest(name="gpu", millis=500, model="a100"),
        DeviceRequest(name="fpga", millis=2000),
    )
    assert placement.near == (
        Affinity(service="db"),
        Affinity(service="shop/cache", over="label.rack", weight=30),
    )
    assert placement.apart == (Affinity(service="batch", over="label.zone"),)
    assert placement.distinct == ("node",)
    assert placement.tolerate == (Toleration(key="gpu"), Toleration(key="team", value="ml"))
    assert placement.pool == "fast"
    assert placement.policy is PlacementPolicy.PACK
    assert placement.sticky is Sticky.PREFER
    assert placement.gang is True


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("priority: 5000", '"5000" is not a priority; write -1000 to 1000'),
        ("resources: {devices: {gpu: 1.5}}", "neither whole nor a share of one; write 1 or 0.5"),
        ("resources: {devices: {gpu: 0}}", '"0" is not a count; write e.g. 1 or 0.5'),
        ("placement: {apart: web}", "is this service itself; write distinct: node or a spread"),
        ("placement: {near: {service: web, weight: 5}}", "makes no sense for the service itself"),
        ("placement: {near: db, apart: db}", "db is required to be near as well; leave one out"),
        ("placement: {near: a/b/c}", "is not a service; write NAME or NAMESPACE/NAME"),
        ("placement: {distinct: [node, node]}", "node stands twice; leave one out"),
        ("placement: {policy: fill}", "is not one of cluster, spread, pack, balance"),
        ("placement: {gang: true, sticky: require}", "cannot be require with gang"),
        ("placement: {require: label.a = 1}", "compares with a single =; write label.disk == ssd"),
    ],
)
def test_what_cannot_be_is_refused_with_the_remedy(text: str, expected: str) -> None:
    """One sentence each."""
    with pytest.raises(SpecErrors) as caught:
        a_spec(text)
    assert expected in str(caught.value)
