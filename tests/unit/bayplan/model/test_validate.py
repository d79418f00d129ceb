"""What a controller refuses whoever sends it: specs that no YAML of ours would make."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from bayplan.model.resources import Resources
from bayplan.model.secret import Secret
from bayplan.model.service import (
    EnvVar,
    ExecCheck,
    Fencing,
    HealthCheck,
    HttpCheck,
    Mount,
    MountKind,
    Port,
    SecretFile,
    SecretReference,
    ServiceSpec,
    Spread,
    StopPolicy,
    TaskTemplate,
    TcpCheck,
    UpdatePolicy,
    UpdateStrategy,
)
from bayplan.model.validate import secret_references, validate, validate_secret
from bayplan.model.workload import WorkloadKind

GOOD = ServiceSpec(name="web", template=TaskTemplate(image="web:1"))
REFERENCE = SecretReference(name="db", key="password")


def with_template(**fields: Any) -> ServiceSpec:
    return replace(GOOD, template=replace(GOOD.template, **fields))


def test_a_plain_spec_is_good() -> None:
    """The defaults of the model have nothing wrong with them."""
    assert validate(GOOD) == []


@pytest.mark.parametrize(
    "image",
    [
        "web:1",
        "shop/web",
        "a.example:5000/shop/web:1.42",
        "localhost/web@sha256:" + "0" * 64,
        "[::1]:5000/web:1",
    ],
)
def test_images_of_all_forms(image: str) -> None:
    """Short names, hosts with ports, digests."""
    assert validate(with_template(image=image)) == []


WRONG = {
    "lease too short": (
        with_template(fencing=Fencing(lease_s=1.0)),
        ("fencing", "lease"),
    ),
    "blue/green and fenced": (
        replace(
            with_template(fencing=Fencing()),
            update=UpdatePolicy(strategy=UpdateStrategy.BLUE_GREEN),
        ),
        ("update", "strategy"),
    ),
    "a fenced daemon": (
        replace(with_template(fencing=Fencing()), kind=WorkloadKind.DAEMON),
        ("fencing",),
    ),
    "image empty": (with_template(image=""), ("image",)),
    "image with spaces": (with_template(image="a b"), ("image",)),
    "name too long": (replace(GOOD, name="a" * 64), ("name",)),
    "replicas": (replace(GOOD, replicas=-1), ("replicas",)),
    "negative memory": (
        with_template(resources=Resources(memory_bytes=-1)),
        ("resources", "memory"),
    ),
    "variable twice": (
        with_template(env=(EnvVar(name="A", value="x"), EnvVar(name="A", value="y"))),
        ("env", "A"),
    ),
    "value and secret": (
        with_template(env=(EnvVar(name="A", value="x", secret=REFERENCE),)),
        ("env", "A"),
    ),
    "NUL in a value": (with_template(env=(EnvVar(name="A", value="a\0b"),)), ("env", "A")),
    "secret's name": (
        with_template(env=(EnvVar(name="A", secret=SecretReference(name="../x", key="k")),)),
        ("env", "A", "secret"),
    ),
    "port out of range": (
        with_template(ports=(Port(name="http", container=70000),)),
        ("ports", "http", "container"),
    ),
    "auto and a number": (
        with_template(ports=(Port(name="a", container=1, publish=2, publish_auto=True),)),
        ("ports", "a", "publish"),
    ),
    "port's name twice": (
        with_template(ports=(Port(name="a", container=1), Port(name="a", container=2))),
        ("ports", "a"),
    ),
    "bind with ..": (
        with_template(mounts=(Mount(target="/x", kind=MountKind.BIND, source="/a/../etc"),)),
        ("mounts", "/x", "bind"),
    ),
    "file over a mount": (
        with_template(
            mounts=(Mount(target="/x", kind=MountKind.TMPFS, size_bytes=1),),
            files=(SecretFile(path="/x", secret=REFERENCE),),
        ),
        ("files", "/x"),
    ),
    "two checks": (
        with_template(
            ports=(Port(name="a", container=1),),
            health=HealthCheck(tcp=TcpCheck(port="a"), http=HttpCheck(port="a")),
        ),
        ("health",),
    ),
    "check of a udp port": (
        with_template(
            ports=(Port(name="a", container=1, protocol="udp"),),  # type: ignore[arg-type]
            health=HealthCheck(tcp=TcpCheck(port="a")),
        ),
        ("health", "tcp", "port"),
    ),
    "timeout": (
        with_template(health=HealthCheck(exec=ExecCheck(command=("true",)), timeout_s=0)),
        ("health", "timeout"),
    ),
    "signal": (with_template(stop=StopPolicy(signal="SIGNOPE")), ("stop", "signal")),
    "no way to update": (
        replace(GOOD, update=UpdatePolicy(max_surge=0)),
        ("update", "max_surge"),
    ),
}


@pytest.mark.parametrize(("spec", "path"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_named_by_its_field(
    spec: ServiceSpec, path: tuple[str | int, ...]
) -> None:
    """One problem, at the path an operator would write."""
    assert [p.path for p in validate(spec)] == [path]


@pytest.mark.parametrize("signal", ["SIGTERM", "TERM", "15", "SIGRTMIN+3", "SIGKILL", ""])
def test_signals(signal: str) -> None:
    """Names with and without SIG, numbers, real-time signals; empty is the image's own."""
    assert validate(with_template(stop=StopPolicy(signal=signal))) == []


def test_shared_memory_may_be_sized() -> None:
    """/dev is the container's own, but for /dev/shm."""
    mount = Mount(target="/dev/shm", kind=MountKind.TMPFS, size_bytes=1 << 20)
    assert validate(with_template(mounts=(mount,))) == []


def test_spread_twice_over_one_key() -> None:
    """The second is named."""
    placement = replace(GOOD.placement, spread=(Spread(over="node"), Spread(over="node")))
    (problem,) = validate(replace(GOOD, placement=placement))
    assert problem.path == ("placement", "spread", 1, "over")


def test_secrets() -> None:
    """Names, keys and sizes; a problem never holds a value."""
    values = {"../k": b"hunter2", "big": b"x" * (1 << 20)}
    secret = Secret(namespace="default", name="db", values=values)
    problems = validate_secret(secret)
    assert [p.path for p in problems] == [("../k",), ("big",), ()]
    assert "hunter2" not in str(problems)
    (empty,) = validate_secret(Secret(namespace="default", name="db"))
    assert empty.message == "holds no value; write e.g. values: {password: …}"


def test_references_are_found_once() -> None:
    """In variables and files."""
    spec = with_template(
        env=(EnvVar(name="A", secret=REFERENCE),),
        files=(SecretFile(path="/run/x", secret=REFERENCE),),
    )
    assert secret_references(spec.template) == (REFERENCE,)
