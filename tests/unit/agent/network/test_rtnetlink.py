"""rtnetlink messages, and the kernel's answers to them."""

from __future__ import annotations

import errno
import socket

import pytest

from agent.network import rtnetlink
from agent.network.rtnetlink import Message, Rtnetlink, attribute, attributes, number, string


def test_attributes_are_padded_and_found_again() -> None:
    """Values of any length, nested ones too."""
    inner = string(1, "veth") + attribute(2, b"\1")
    packed = string(3, "eth0") + number(4, 1500) + attribute(18 | 1 << 15, inner)
    found = attributes(packed)
    assert len(packed) % 4 == 0
    assert rtnetlink.text(found[3]) == "eth0"
    assert found[4] == (1500).to_bytes(4, "little")
    assert attributes(found[18]) == {1: b"veth\0", 2: b"\1"}


def test_cut_off_attributes_end() -> None:
    """A length of nothing or beyond the end neither loops nor raises."""
    assert attributes(b"\0\0\3\0") == {3: b""}
    assert attributes(b"\xff\0\3\0ab") == {3: b"ab"}
    assert attributes(b"ab") == {}


def test_a_dump_holds_the_loopback_interface() -> None:
    """As every network namespace has it."""
    with Rtnetlink() as netlink:
        links = netlink.dump(rtnetlink.RTM_GETLINK, rtnetlink.link())
        one = netlink.get(rtnetlink.RTM_GETLINK, rtnetlink.link(1))
    names = {
        rtnetlink.text(attributes(link[rtnetlink.LINK_HEAD :])[rtnetlink.IFLA_IFNAME]): link
        for link in links
    }
    assert rtnetlink.link_index(names["lo"]) == socket.if_nametoindex("lo") == 1
    assert rtnetlink.link_index(one) == 1


def test_the_first_refusal_of_a_batch_is_said_and_the_socket_goes_on() -> None:
    """The answers to all messages are read, so that none is taken for a later one's."""
    missing = rtnetlink.link(2_000_000_000, up=True)
    with Rtnetlink() as netlink:
        with pytest.raises(rtnetlink.Refused, match="second-last") as refused:
            netlink.change(
                Message("second-last", rtnetlink.RTM_NEWLINK, missing),
                Message("last", rtnetlink.RTM_NEWLINK, missing),
            )
        assert refused.value.errno in (errno.ENODEV, errno.EPERM)
        assert netlink.dump(rtnetlink.RTM_GETLINK, rtnetlink.link())
