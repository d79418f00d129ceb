"""The host's network on a real kernel."""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
import subprocess
import time

import pytest

from agent.network import Network, NetworkError, PublishedService
from bayplan.model.service import Protocol
from tests.host.agent.network.conftest import HOST, LAN, SERVE, SUBNET, Rig

pytestmark = [
    pytest.mark.root,
    pytest.mark.timeout(60),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]


def nft(command: str) -> str:
    return subprocess.run(["nft", *command.split()], capture_output=True, text=True).stdout


def links() -> set[str]:
    return set(os.listdir("/proc/sys/net/ipv4/conf")) - {"all", "default", "lo", "up0"}


async def a_backend(rig: Rig, network: Network, name: str) -> tuple[str, int]:
    attached = await network.attach(name, rig.backend(name).pid, name)
    return attached.address, 8080


def published(*backends: tuple[str, int], protocol: Protocol = Protocol.TCP) -> PublishedService:
    return PublishedService(port=80, protocol=protocol, backends=backends)


async def test_balances_from_everywhere(rig: Rig, network: Network) -> None:
    """From the LAN, the host's own address, 127.0.0.1 and a backend itself (hairpin), requests
    are spread evenly, and the LAN's address is seen by the container."""
    a, b = [await a_backend(rig, network, name) for name in ("a", "b")]
    await network.publish([published(a, b)])
    backend = rig.processes[1].pid
    for address, pid in ((HOST, rig.lan.pid), (HOST, None), ("127.0.0.1", None), (HOST, backend)):
        answer = rig.load(address, 80, pid=pid)()
        assert (answer["names"], answer["failed"]) == ({"a": 5, "b": 5}, {}), address
        if pid == rig.lan.pid:
            assert answer["peers"] == [LAN]


async def test_outbound_is_masqueraded(rig: Rig, network: Network) -> None:
    """A container reaches the LAN by the host's address, and the LAN cannot reach a container
    port that is not published."""
    a, _ = await a_backend(rig, network, "a")
    rig.popen(["nsenter", f"--net=/proc/{rig.lan.pid}/ns/net", *SERVE, "lan", "9000"])
    answer = rig.load(LAN, 9000, pid=rig.processes[1].pid)()
    assert (answer["names"], answer["peers"]) == ({"lan": 10}, [HOST])
    rig.in_lan(f"ip route add {SUBNET} via {HOST}")
    with pytest.raises(subprocess.CalledProcessError):
        rig.in_lan(f"timeout 1 busybox nc -w 1 {a} 8080 </dev/null")


async def test_swaps_lose_nothing(rig: Rig, network: Network) -> None:
    """While backends are swapped as fast as it goes, not one of hundreds of connections
    fails, from the host and from the LAN."""
    backends = [await a_backend(rig, network, name) for name in ("a", "b", "c")]
    await network.publish([published(*backends)])
    answers = [rig.load(HOST, 80, seconds=5), rig.load(HOST, 80, seconds=5, pid=rig.lan.pid)]
    end, swaps = time.monotonic() + 5.5, 0
    for pair in itertools.cycle(itertools.combinations(backends, 2)):
        if time.monotonic() > end:
            break
        await network.publish([published(*pair)])
        swaps += 1
        await asyncio.sleep(0.002)
    results = [await asyncio.to_thread(answer) for answer in answers]
    assert [result["failed"] for result in results] == [{}, {}]
    assert sum(sum(result["names"].values()) for result in results) > 500
    assert swaps > 20


async def test_connection_survives_removal(rig: Rig, network: Network) -> None:
    """An open connection stays with its backend when that is taken out; new ones avoid it."""
    a, b = [await a_backend(rig, network, name) for name in ("a", "b")]
    await network.publish([published(a)])
    with socket.create_connection((HOST, 80), 3) as sock:
        sock.send(b"x")
        assert sock.recv(100).split()[0] == b"a"
        await network.publish([published(b)])
        sock.send(b"x")
        assert sock.recv(100).split()[0] == b"a"
    assert rig.load(HOST, 80)()["names"] == {"b": 10}


async def test_refuses_without_backends(rig: Rig, network: Network) -> None:
    """A service without healthy tasks here refuses at once, from near and far."""
    await network.publish([published()])
    for pid in (None, rig.lan.pid):
        started = time.monotonic()
        assert rig.load(HOST, 80, pid=pid)()["failed"] == {"[Errno 111] Connection refused": 10}
        assert time.monotonic() - started < 2


async def test_udp(rig: Rig, network: Network) -> None:
    """Datagrams are balanced as well; a client with one source port follows a swap."""
    a, b = [await a_backend(rig, network, name) for name in ("a", "b")]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(3)
        sock.connect((HOST, 80))
        for backend, name in ((a, b"a"), (b, b"b")):
            await network.publish([published(backend, protocol=Protocol.UDP)])
            sock.send(b"x")
            assert sock.recv(100).split()[0] == name


async def test_port_of_somebody_else(rig: Rig, network: Network) -> None:
    """A port that a process of the host listens on is not taken from it, and is named."""
    a = await a_backend(rig, network, "a")
    with socket.create_server(("", 80)):
        (conflict,) = await network.publish([published(a)])
        assert conflict.reason == "port 80/tcp of the host is in use by a process there"
    assert await network.publish([published(a)]) == ()
    assert rig.load(HOST, 80)()["names"] == {"a": 10}


async def test_restart_adopts(rig: Rig, network: Network) -> None:
    """A second agent finds addresses and ports as they are, changes nothing, and removes what
    belongs to tasks that are gone."""
    a, b = [await a_backend(rig, network, name) for name in ("a", "b")]
    await network.publish([published(a)])
    before = nft("list ruleset")
    await network.stop()
    second = Network()
    await second.start(SUBNET, keep=["a"])
    await second.publish([published(a)])
    assert nft("list ruleset").replace("packets", "") == before.replace("packets", "")
    assert (second.address("a"), second.address("b")) == (a[0], None)
    assert rig.load(HOST, 80)()["names"] == {"a": 10}
    attached = await second.attach("c", rig.backend("c").pid, "c")
    assert attached.address not in (a[0], b[0])
    await second.stop()


async def test_same_task_same_address(rig: Rig, network: Network) -> None:
    """A restarted container of a task keeps the task's address."""
    first = await network.attach("a", rig.backend("a1").pid, "a")
    second = await network.attach("a", rig.backend("a2").pid, "a")
    assert second == first
    await network.publish([published((second.address, 8080))])
    assert rig.load(HOST, 80)()["names"] == {"a2": 10}


async def test_ruleset_flushed_by_somebody(rig: Rig, network: Network) -> None:
    """Where somebody flushed the ruleset, the next publish puts all of it back."""
    a = await a_backend(rig, network, "a")
    await network.publish([published(a)])
    nft("flush ruleset")
    await network.publish([published(a)])
    assert rig.load(HOST, 80, pid=rig.lan.pid)()["names"] == {"a": 10}


async def test_forward_policy_of_docker(rig: Rig, network: Network) -> None:
    """Where another firewall drops what is forwarded, containers are let through, and cleaning
    up takes that back."""
    nft("add table ip filter")
    nft("add chain ip filter FORWARD { type filter hook forward priority 0 ; policy drop ; }")
    a = await a_backend(rig, network, "a")
    await network.stop()
    second = Network()
    await second.start(SUBNET)
    await second.publish([published(a)])
    assert second.firewall_problem == ""
    assert rig.load(HOST, 80, pid=rig.lan.pid)()["names"] == {"a": 10}
    await second.cleanup()
    assert "bay0" not in nft("list ruleset")
    await second.stop()


async def test_forward_policy_of_legacy_iptables(rig: Rig, network: Network) -> None:
    """The same with iptables' own kernel side, which nftables does not show."""
    subprocess.run(["iptables-legacy", "-P", "FORWARD", "DROP"], check=True)
    a = await a_backend(rig, network, "a")
    await network.stop()
    second = Network()
    await second.start(SUBNET)
    await second.publish([published(a)])
    assert second.firewall_problem == ""
    assert rig.load(HOST, 80, pid=rig.lan.pid)()["names"] == {"a": 10}
    await second.cleanup()
    rules = subprocess.check_output(["iptables-legacy", "-S", "FORWARD"], text=True)
    assert rules == "-P FORWARD DROP\n"
    await second.stop()


async def test_containers_cannot_reach_loopback(rig: Rig, network: Network) -> None:
    """What the host serves on 127.0.0.1 stays out of containers' reach, though packets for
    127.0.0.0/8 are routed on the bridge."""
    await a_backend(rig, network, "a")
    enter = f"nsenter --net=/proc/{rig.processes[1].pid}/ns/net"
    script = (
        "echo 1 > /proc/sys/net/ipv4/conf/eth0/route_localnet; "
        "ip addr del 127.0.0.1/8 dev lo; ip route add 127.0.0.1 via 10.97.1.1 dev eth0; "
        "timeout 1 busybox nc -w 1 127.0.0.1 7000 </dev/null"
    )
    with socket.create_server(("127.0.0.1", 7000)) as server:
        server.settimeout(0.5)
        subprocess.run([*enter.split(), "sh", "-c", script], capture_output=True, timeout=10)
        with pytest.raises(TimeoutError):
            server.accept()


async def test_cleanup_leaves_nothing(rig: Rig, network: Network) -> None:
    """No table, no interface, no forwarding remain."""
    await a_backend(rig, network, "a")
    await network.publish([published(("10.97.1.2", 80))])
    assert len(links()) == 2
    await network.cleanup()
    assert (nft("list ruleset"), links()) == ("", set())
    with open("/proc/sys/net/ipv4/ip_forward") as switch:
        assert switch.read() == "0\n"


async def test_detach_frees(rig: Rig, network: Network) -> None:
    """A detached task has no interface, and detaching again is nothing."""
    await a_backend(rig, network, "a")
    await network.detach("a")
    await network.detach("a")
    assert network.address("a") is None
    end = time.monotonic() + 5
    while links() != {"bay0"}:
        assert time.monotonic() < end
        await asyncio.sleep(0.1)


async def test_detached_and_attached_again(rig: Rig, network: Network) -> None:
    """A task that comes back at once keeps the interface it got then."""
    await a_backend(rig, network, "a")
    await network.detach("a")
    await network.attach("a", rig.backend("a").pid, "a")
    await asyncio.sleep(1.5)
    assert len(links()) == 2


async def test_stop_removes_what_leaves(rig: Rig, network: Network) -> None:
    """An agent that ends right after a detach leaves no interface of the task."""
    await a_backend(rig, network, "a")
    await network.detach("a")
    await network.stop()
    assert links() == {"bay0"}


async def test_dead_process(network: Network) -> None:
    """Attaching to a process that has gone is an error that says so and takes no address."""
    with pytest.raises(NetworkError, match="process 4000000 is gone"):
        await network.attach("a", 4000000, "a")
    assert links() == {"bay0"}
