"""Addresses of a host's subnet."""

from ipaddress import IPv4Address, IPv4Network

import pytest

from agent.network import addresses
from agent.network.model import NetworkError

SMALL = IPv4Network("10.96.3.0/29")
FIRST, LAST = IPv4Address("10.96.3.2"), IPv4Address("10.96.3.6")


def test_pick_goes_round() -> None:
    """After the last address comes the first, and what is taken is passed over."""
    assert addresses.pick(SMALL, set(), addresses.gateway(SMALL)) == FIRST
    assert addresses.pick(SMALL, set(), LAST) == FIRST
    assert addresses.pick(SMALL, {FIRST}, LAST) == FIRST + 1


def test_full_subnet_says_so() -> None:
    """A subnet without a free address is an error with its size."""
    taken = {FIRST + i for i in range(5)}
    with pytest.raises(NetworkError, match=r"all 5 addresses of 10\.96\.3\.0/29"):
        addresses.pick(SMALL, taken, FIRST)


def test_alias_round_trip() -> None:
    """The alias gives back the task and its address, and nobody else's is taken for ours."""
    assert addresses.parse_alias(addresses.alias("u-1", FIRST)) == ("u-1", FIRST)
    assert addresses.parse_alias("uplink to rack 3") is None


def test_interface_names_fit() -> None:
    """Names are within IFNAMSIZ, whatever the uid."""
    assert len(addresses.interface_name("x" * 200)) <= 15
