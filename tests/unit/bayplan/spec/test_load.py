"""Reading specs into the domain."""

from __future__ import annotations

import os
from pathlib import Path

import jsonschema
import pytest
import yaml

from bayplan.model.resources import Resources
from bayplan.model.secret import Secret
from bayplan.model.service import (
    ConstraintOperator,
    EnvVar,
    HttpCheck,
    Logging,
    LogPolicy,
    Mount,
    MountKind,
    Port,
    Portion,
    SecretFile,
    SecretReference,
    ServiceSpec,
    Spread,
    UpdatePolicy,
)
from bayplan.spec import SpecErrors, load, parse
from bayplan.spec.schema import json_schema

BASE = "kind: Service\nname: web\nimage: web:1\n"
EXAMPLES = Path(__file__).parents[4] / "examples"


def service(text: str) -> ServiceSpec:
    (document,) = parse(BASE + text)
    assert isinstance(document.object, ServiceSpec)
    return document.object


@pytest.mark.parametrize("path", sorted(EXAMPLES.rglob("*.yaml")), ids=lambda p: p.name)
def test_each_example_is_valid(path: Path) -> None:
    """The examples work as they are."""
    assert load([str(path)])


def test_the_examples_can_be_applied_together() -> None:
    """Each is another object. Later versions of one stand below, and are versions of one."""
    names = {d.object.name for d in load([str(EXAMPLES)])}
    assert {"web", "shop", "cache"} <= names
    assert {d.object.name for p in EXAMPLES.glob("updates/*") for d in load([str(p)])} <= names


def test_fields_become_the_model() -> None:
    """Units, short forms and references."""
    spec = service(
        """\
replicas: 6
env: {A: no, B: 1.10, C: "", D: {secret: db/password}}
files: {/run/secrets/db: {secret: db/password, mode: "0440", uid: 1000}}
resources: {cpu: 0.5, memory: 512MiB, pids: 200}
ports: {http: 8080, dns: {container: 53, protocol: udp, publish: auto}}
mounts: {/c: {tmpfs: 1.5GiB}, /d: {volume: data}, /e: {bind: /srv, read_only: true}}
health: {http: {port: http, path: /healthz}, start_period: 1m30s, interval: 500ms}
placement:
  require: ['attr.arch in (amd64, arm64)', label.gpu exists]
  spread: {over: label.rack, max_skew: 1}
update: {max_surge: 25%, max_unavailable: 25%}
command: sh -c 'echo "a b"'
args: [1, "2"]
restart: never
"""
    )
    template = spec.template
    reference = SecretReference(name="db", key="password")
    assert spec.replicas == 6
    assert template.env == (
        EnvVar(name="A", value="no"),
        EnvVar(name="B", value="1.10"),
        EnvVar(name="C", value=""),
        EnvVar(name="D", secret=reference),
    )
    assert template.files == (
        SecretFile(path="/run/secrets/db", secret=reference, mode=0o440, uid=1000),
    )
    assert template.resources == Resources(cpu_millis=500, memory_bytes=512 << 20, pids=200)
    assert template.ports[0] == Port(name="http", container=8080)
    assert (template.ports[1].publish_auto, str(template.ports[1].protocol)) == (True, "udp")
    assert template.mounts == (
        Mount(target="/c", kind=MountKind.TMPFS, size_bytes=1536 << 20),
        Mount(target="/d", kind=MountKind.VOLUME, source="data"),
        Mount(target="/e", kind=MountKind.BIND, source="/srv", read_only=True),
    )
    assert template.health is not None
    assert template.health.http == HttpCheck(port="http", path="/healthz")
    assert (template.health.start_period_s, template.health.interval_s) == (90.0, 0.5)
    assert [c.operator for c in spec.placement.require] == [
        ConstraintOperator.IN,
        ConstraintOperator.EXISTS,
    ]
    assert spec.placement.require[0].values == ("amd64", "arm64")
    assert spec.placement.spread == (Spread(over="label.rack", max_skew=1),)
    assert spec.update == UpdatePolicy(max_surge=2, max_unavailable=1)
    assert template.command == ("sh", "-c", 'echo "a b"')
    assert template.args == ("1", "2")
    assert str(template.restart.condition) == "never"


def test_the_default_of_a_log_written_out_is_the_default() -> None:
    """Which replaces no task; another policy is part of the template."""
    assert service("log: {policy: drop}\n") == service("log: {}\n") == service("")
    log = service("log: {policy: block}\n").template.log
    assert log == Logging(policy=LogPolicy.BLOCK)


def test_anchors_and_merges_work() -> None:
    """A base can be shared; what a document says itself wins."""
    spec = service("env: &base {A: x, B: y}\nlabels: {<<: *base, B: z}\n")
    assert spec.labels == {"A": "x", "B": "z"}


def test_source_is_what_was_typed() -> None:
    """Comments stay, each document keeps its own text, and a secret's is not kept."""
    first = "# about web\nkind: Service # yes\nname: web\nimage: web:1\n"
    second = "kind: Service\nname: two\n# why two\nimage: web:1\n"
    secret = "kind: Secret\nname: s\nvalues: {a: b}\n"
    documents = parse(f"{first}---\n{second}\n--- # a secret\n{secret}")
    assert [d.source for d in documents] == [first, second, ""]
    assert parse("# top\n---\n" + second)[0].source == "# top\n" + second


def test_source_can_be_applied_again() -> None:
    """What `get -o spec` prints means the same."""
    for path in sorted(EXAMPLES.rglob("*.yaml")):
        for document in load([str(path)]):
            if document.source:
                assert parse(document.source)[0].object == document.object


def test_directories_and_several_files(tmp_path: Path) -> None:
    """*.yaml and *.yml in order, below only when asked; a file named twice counts once."""
    (tmp_path / "sub").mkdir()
    for name in ("b.yml", "a.yaml", "c.txt", "sub/d.yaml"):
        (tmp_path / name).write_text(BASE.replace("web\n", f"{Path(name).stem}\n"))
    flat = load([str(tmp_path), str(tmp_path / "a.yaml")], namespace="prod")
    assert [d.object.name for d in flat] == ["a", "b"]
    assert {d.object.namespace for d in flat} == {"prod"}
    assert [d.object.name for d in load([str(tmp_path)], recursive=True)] == ["a", "b", "d"]


@pytest.mark.timeout(10)
def test_what_cannot_be_read_says_why(tmp_path: Path) -> None:
    """Missing, binary, too long and special files, all at once and without waiting."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "latin").write_bytes(b"kind: Service\nname: caf\xe9\n")
    (tmp_path / "long").write_bytes(b"#" * (1 << 20) + b"##")
    (tmp_path / "empty").mkdir()
    names = [str(tmp_path / n) for n in ("none", "pipe", "latin", "long", "empty")]
    with pytest.raises(SpecErrors) as caught:
        load(names)
    assert str(caught.value).replace(f"{tmp_path}/", "").split("\n") == [
        "none: cannot be read: no such file or directory",
        "pipe: is not a regular file",
        "latin:2: is not UTF-8 text; save it as UTF-8",
        "long: is longer than 1 MiB",
        "empty: holds no file that ends in .yaml or .yml",
    ]


def test_a_secret_reads_files_beside_it_and_no_others(tmp_path: Path) -> None:
    """Paths out of the spec's directory are refused, by name or by symbolic link."""
    (tmp_path / "outside").write_text("no")
    specs = tmp_path / "specs"
    specs.mkdir()
    (specs / "tls.key").write_bytes(b"\x00key")
    (specs / "link").symlink_to(tmp_path / "outside")
    good = "kind: Secret\nname: s\nfiles: {a: tls.key}\nbinary: {b: aGk=}\nvalues: {c: 0777}\n"
    (specs / "s.yaml").write_text(good)
    (document,) = load([str(specs / "s.yaml")])
    assert isinstance(document.object, Secret)
    assert document.object.values == {"a": b"\x00key", "b": b"hi", "c": b"0777"}
    for name in ("../outside", "link", "/etc/hostname"):
        (specs / "s.yaml").write_text(f"kind: Secret\nname: s\nfiles: {{a: {name}}}\n")
        with pytest.raises(SpecErrors, match="is not below the directory of this file"):
            load([str(specs / "s.yaml")])


@pytest.mark.parametrize("path", sorted(EXAMPLES.rglob("*.yaml")), ids=lambda p: p.name)
def test_the_schema_agrees_with_the_examples(path: Path) -> None:
    """What we read, editors find right, short forms included."""
    validator = jsonschema.Draft202012Validator(json_schema())
    for document in yaml.safe_load_all(path.read_text()):
        assert [e.message for e in validator.iter_errors(document)] == []


@pytest.mark.parametrize(
    "given",
    [
        {"replics": 3},
        {"replicas": None},
        {"resources": {"memory": "12 QB"}},
        {"ports": {"http": {"publish": 80}}},
        {"update": {"on_failure": "rolback"}},
    ],
)
def test_the_schema_finds_what_is_wrong(given: dict[str, object]) -> None:
    """What we refuse, editors underline."""
    validator = jsonschema.Draft202012Validator(json_schema())
    good: dict[str, object] = {"kind": "Service", "name": "web", "image": "web:1"}
    assert validator.is_valid(good)
    assert not validator.is_valid({**good, **given})


def test_the_schema_describes_every_field() -> None:
    """Editors show a description for each field of a service."""
    schema = json_schema()
    found = schema["$defs"]["ServiceFields"]["properties"]
    assert {"replicas", "health", "update"} <= set(found)
    assert all(f.get("description") for f in found.values())


def test_gates_of_an_update() -> None:
    """Counts and percentages are kept as they are written: replicas may change later."""
    update = service("update: {canary: 10%, pause_after: [25%, 3], promote_after: 30m}\n").update
    assert update.canary == Portion(percent=10)
    assert update.pause_after == (Portion(percent=25), Portion(count=3))
    assert update.promote_after_s == 1800.0
