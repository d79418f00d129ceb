"""The wire between lab machines: a bridge in a machine of its own.

Not in the machine's own namespace: where br_netfilter is loaded, its firewall (Docker's, say)
would filter what lab hosts say to each other. One more port leads out, so that what runs on this
machine reaches the hosts by their addresses.
"""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Interface, IPv4Network

from lab import machine
from lab.errors import LabError
from lab.process import Process

BRIDGE = "switch"
UPLINK = "root"
SUBNETS = IPv4Network("10.210.0.0/16")
_DEADLINE_S = 10.0


def free_subnet() -> IPv4Network:
    """The first /24 that no route of this machine covers. Raises LabError."""
    routes = [
        IPv4Network(route["dst"], strict=False)
        for route in json.loads(_ip("-j", "-4", "route", "show", "table", "all"))
        if route["dst"] != "default"
    ]
    for candidate in SUBNETS.subnets(new_prefix=24):
        if not any(candidate.overlaps(route) for route in routes):
            return candidate
    raise LabError(f"all of {SUBNETS} is in use here", hint="choose another by --subnet")


@contextmanager
def choosing() -> Iterator[None]:
    """One lab at a time chooses its subnet, until its route is there. Raises LabError."""
    deadline = time.monotonic() + _DEADLINE_S
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as held:
        while True:
            try:
                held.bind("\0bayplan-lab-chooses")
                break
            except OSError as taken:
                if time.monotonic() > deadline:
                    raise LabError(
                        "another lab is being made here", hint="try again when it is up"
                    ) from taken
            time.sleep(0.05)
        yield


def outside(name: str) -> str:
    """The interface on this machine; at most 15 characters (lab names have at most 10)."""
    return f"{name}-sw"


def start(switch: Process, name: str, subnet: IPv4Network) -> None:
    """The bridge, and this machine's own port with the subnet's first address."""
    _on(switch, "link", "set", "lo", "up")
    _on(switch, "link", "add", BRIDGE, "type", "bridge", "forward_delay", "0")
    _on(switch, "link", "set", BRIDGE, "up")
    own = IPv4Interface((subnet.network_address + 1, subnet.prefixlen))
    stop(name)
    _ip("link", "add", outside(name), "type", "veth", "peer", UPLINK, "netns", str(switch.pid))
    _on(switch, "link", "set", UPLINK, "master", BRIDGE, "up")
    _ip("addr", "add", str(own), "dev", outside(name))
    _ip("link", "set", outside(name), "up")


def stop(name: str) -> None:
    """Removes this machine's own port, if it is there; the rest goes with the switch."""
    try:
        if _present(outside(name)):
            _ip("link", "del", outside(name))
    except LabError:
        # The kernel removes it by itself some time after the switch has ended.
        if _present(outside(name)):
            raise


def _present(interface: str) -> bool:
    return any(link["ifname"] == interface for link in json.loads(_ip("-j", "link", "show")))


def plug(switch: Process, host: Process, port: str, address: IPv4Interface) -> None:
    """Connects a machine: its eth0 with `address`, the default route by this machine."""
    if any(link["ifname"] == port for link in json.loads(_on(switch, "-j", "link", "show"))):
        _on(switch, "link", "del", port)
    # From here: a pid means another process, or none, in a machine's own pid namespace.
    # The MAC is the address's, so that it is the same after a reboot, as a real host's is.
    mac = "02:6c:" + ":".join(f"{byte:02x}" for byte in address.packed)
    ends = f"{switch.pid} type veth peer eth0 address {mac} netns {host.pid}".split()
    _ip("link", "add", port, "netns", *ends)
    _on(switch, "link", "set", port, "master", BRIDGE, "up")
    _on(host, "link", "set", "lo", "up")
    _on(host, "addr", "add", str(address), "brd", "+", "dev", "eth0")
    _on(host, "link", "set", "eth0", "up")
    _on(host, "route", "add", "default", "via", str(address.network.network_address + 1))


def cut(switch: Process, port: str) -> None:
    """Unplugs the port from the bridge: every frame from and to it is lost, silently. The host
    keeps its carrier, and the switch has no address that could answer."""
    _on(switch, "link", "set", port, "nomaster")


def heal(switch: Process, port: str) -> None:
    """Plugs the port in again."""
    _on(switch, "link", "set", port, "master", BRIDGE)


def _on(where: Process, *arguments: str) -> str:
    return machine.run(where, ["ip", *arguments], deadline_s=_DEADLINE_S)


def _ip(*arguments: str) -> str:
    try:
        result = subprocess.run(
            ["ip", *arguments], capture_output=True, text=True, timeout=_DEADLINE_S, check=False
        )
    except FileNotFoundError as error:
        raise LabError("the command `ip` is missing", hint="apt install iproute2") from error
    if result.returncode != 0:
        raise LabError(f"ip {' '.join(arguments)}: {result.stderr.strip()}")
    return result.stdout
