"""What is written to nftables, for what stands there and what is wanted."""

from ipaddress import IPv4Network

from agent.network import rules
from agent.network.model import PublishedService
from bayplan.model.service import Protocol

WEB = (Protocol.TCP, 80)
SUBNET = IPv4Network("10.96.3.0/24")


def a_service(*backends: tuple[str, int], port: int = 80) -> PublishedService:
    return PublishedService(port=port, backends=backends)


def a_ruleset(service: PublishedService, generation: int = 1) -> rules.Ruleset:
    """The table as it stands once `service` was written to an empty one."""
    chain = rules.chain_name(service.key)
    return rules.Ruleset(
        base="x",
        chains=frozenset({chain, f"{chain}_g{generation}"}),
        goto={chain: f"{chain}_g{generation}"},
        targets={f"{chain}_g{generation}": frozenset(service.backends)},
        published=frozenset({service.key}),
    )


def test_first_service_golden() -> None:
    """A new service gets its chain, its first generation, and only then its element."""
    text = rules.plan(rules.Ruleset(), [a_service(("10.96.3.2", 8080), ("10.96.3.4", 8080))])
    assert text == (
        "add chain ip bayplan tcp_80_g1\n"
        "add rule ip bayplan tcp_80_g1 meta l4proto tcp dnat to numgen inc mod 2 map "
        "{ 0 : 10.96.3.2 . 8080, 1 : 10.96.3.4 . 8080 }\n"
        "add chain ip bayplan tcp_80\n"
        "flush chain ip bayplan tcp_80\n"
        "add rule ip bayplan tcp_80 goto tcp_80_g1\n"
        "add element ip bayplan published { tcp . 80 : goto tcp_80 }\n"
    )


def test_same_service_writes_nothing() -> None:
    """The set that stands is recognised, in whatever order its backends come."""
    now = a_ruleset(a_service(("10.96.3.2", 80), ("10.96.3.4", 80)))
    assert rules.plan(now, [a_service(("10.96.3.4", 80), ("10.96.3.2", 80))]) == ""


def test_swap_keeps_the_old_generation_for_one_transaction() -> None:
    """A swap switches the goto to the next generation and leaves the old chain alone."""
    text = rules.plan(a_ruleset(a_service(("10.96.3.2", 80))), [a_service(("10.96.3.3", 80))])
    assert "add rule ip bayplan tcp_80_g2 meta l4proto tcp dnat to 10.96.3.3:80\n" in text
    assert "goto tcp_80_g2" in text
    assert "delete" not in text


def test_next_transaction_deletes_what_is_unreachable() -> None:
    """Chains that no goto leads to any more go with the next transaction."""
    service = a_service(("10.96.3.2", 80))
    now = a_ruleset(service, generation=7)
    now = rules.Ruleset(
        base="x",
        chains=now.chains | {"tcp_80_g6", "prerouting"},
        goto=now.goto,
        targets=now.targets,
        published=now.published,
    )
    assert rules.plan(now, [service]) == (
        "flush chain ip bayplan tcp_80_g6\ndelete chain ip bayplan tcp_80_g6\n"
    )


def test_service_without_backends_is_refused() -> None:
    """The last healthy backend gone, new connections are refused at once and the chains stay
    for one more transaction."""
    assert rules.plan(a_ruleset(a_service(("10.96.3.2", 80))), [a_service()]) == (
        "add element ip bayplan refused { tcp . 80 }\n"
        "delete element ip bayplan published { tcp . 80 }\n"
    )


def test_refused_service_serves_again() -> None:
    """With a backend again, the element moves back in one transaction."""
    now = rules.Ruleset(base="x", refused=frozenset({WEB}))
    text = rules.plan(now, [a_service(("10.96.3.2", 80))])
    assert "add element ip bayplan published { tcp . 80 : goto tcp_80 }\n" in text
    assert "delete element ip bayplan refused { tcp . 80 }\n" in text


def test_removed_service() -> None:
    """A service no longer wanted loses its element first."""
    assert rules.plan(a_ruleset(a_service(("10.96.3.2", 80))), []) == (
        "delete element ip bayplan published { tcp . 80 }\n"
    )


def test_parse_reads_what_matters() -> None:
    """Elements, gotos, chains and the digest of the fixed part come out of nft's JSON."""
    found = rules.parse(
        [
            {"metainfo": {"version": "1.0.6"}},
            {"table": {"family": "ip", "name": "bayplan", "handle": 1}},
            {
                "map": {
                    "name": "published",
                    "elem": [[{"concat": ["tcp", 80]}, {"goto": {"target": "tcp_80"}}]],
                }
            },
            {"set": {"name": "refused", "elem": [{"concat": ["udp", 53]}]}},
            {"chain": {"name": "about"}},
            {"rule": {"chain": "about", "comment": "abc", "expr": [{"counter": {}}]}},
            {"chain": {"name": "tcp_80"}},
            {
                "rule": {
                    "chain": "tcp_80",
                    "expr": [{"goto": {"target": "tcp_80_g4"}}],
                }
            },
            {"chain": {"name": "tcp_80_g4"}},
            {
                "rule": {
                    "chain": "tcp_80_g4",
                    "expr": [
                        {"match": {}},
                        {
                            "dnat": {
                                "addr": {
                                    "map": {
                                        "key": {"numgen": {"mode": "inc", "mod": 2}},
                                        "data": {
                                            "set": [
                                                [0, {"concat": ["10.96.3.2", 8080]}],
                                                [1, {"concat": ["10.96.3.4", 8081]}],
                                            ]
                                        },
                                    }
                                }
                            }
                        },
                    ],
                }
            },
        ]
    )
    assert found == rules.Ruleset(
        base="abc",
        chains=frozenset({"about", "tcp_80", "tcp_80_g4"}),
        goto={"tcp_80": "tcp_80_g4"},
        targets={"tcp_80_g4": frozenset({("10.96.3.2", 8080), ("10.96.3.4", 8081)})},
        published=frozenset({WEB}),
        refused=frozenset({(Protocol.UDP, 53)}),
    )


def test_gone_backends() -> None:
    """What loses its traffic is known, so that its datagram flows can be forgotten."""
    now = a_ruleset(a_service(("10.96.3.2", 80), ("10.96.3.4", 80)))
    assert rules.gone(now, [a_service(("10.96.3.4", 80))], Protocol.TCP) == {("10.96.3.2", 80)}
    assert rules.gone(now, [], Protocol.UDP) == set()


def test_base_says_what_the_host_was() -> None:
    """A host that was no router forwards for its containers alone; the digests differ."""
    router = rules.base("bay0", SUBNET, (), router=True)
    shut = rules.base("bay0", SUBNET, (), router=False)
    assert "forward drop" in shut
    assert "forward drop" not in router
    assert rules.base_digest(router) != rules.base_digest(shut)


def test_direct_networks_keep_addresses() -> None:
    """Networks of the fabric are reached without masquerading."""
    text = rules.base("bay0", SUBNET, [IPv4Network("10.96.0.0/12")], router=True)
    assert "ip daddr != { 10.96.3.0/24, 10.96.0.0/12 } masquerade" in text
