"""OCI documents that assignments become, held as files. BAYPLAN_GOLDEN=write rewrites them."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from agent.bundle.config import BundleContext, DeviceNode, build
from agent.runtime import parse
from bayplan.model.assignment import Assignment
from bayplan.model.errors import InvalidSpec
from bayplan.model.resources import Resources
from bayplan.model.service import (
    EnvVar,
    Mount,
    MountKind,
    NetworkMode,
    SecretReference,
    TaskTemplate,
    UserNamespace,
)
from bayplan.model.task import Task

HERE = Path(__file__).parent


@dataclass(frozen=True)
class AnImage:
    entrypoint: tuple[str, ...] = ("/entry",)
    cmd: tuple[str, ...] = ("serve",)
    env: tuple[str, ...] = ("PATH=/app:/bin", "MODE=image")
    working_dir: str = "/srv"


TASK = Task(
    namespace="prod", service="web", service_uid="s1", slot=2, attempt=3, uid="u1", generation=1,
    template_hash="h",
)  # fmt: skip
CONTEXT = BundleContext(
    hostname="web-2", cgroups_path="/bayplan/u1", id_base=231072, resolv_conf="/t/u1/resolv.conf",
    hosts="/t/u1/hosts", hostname_file="/t/u1/hostname",
)  # fmt: skip


def an_assignment(**template: object) -> Assignment:
    secrets = {"db/password": b"hunter2", "db/key": b"\xff\x00"}
    return Assignment(task=TASK, template=TaskTemplate(image="web:1", **template), secrets=secrets)  # type: ignore[arg-type]


FULL = an_assignment(
    command=("/bin/server",),
    args=("--port", "80"),
    env=(
        EnvVar(name="MODE", value="spec"),
        EnvVar(name="PASSWORD", secret=SecretReference(name="db", key="password")),
    ),
    working_dir="/work",
    resources=Resources(cpu_millis=500, memory_bytes=512 << 20, pids=200),
    cap_add=("NET_ADMIN",),
    cap_drop=("CAP_MKNOD", "net_raw"),
    read_only_rootfs=True,
    mounts=(
        Mount(target="/var/cache", kind=MountKind.TMPFS, size_bytes=64 << 20),
        Mount(target="/srv/files", kind=MountKind.VOLUME, source="files"),
        Mount(target="/etc/hosts", kind=MountKind.BIND, source="/srv/hosts", read_only=True),
    ),
)
CASES = {
    "image_only": (an_assignment(), CONTEXT),
    "everything": (
        FULL,
        replace(
            CONTEXT, uid=1000, gid=1000, additional_gids=(20,), home="/home/app",
            volumes={"files": "/var/lib/bayplan/volumes/prod/files"},
            secret_files={"/run/secrets/db": "/run/bayplan/secrets/u1/0"},
            devices=(
                DeviceNode(path="/dev/fuse", kind="c", major=10, minor=229, source="/tasks/u1/0"),
            ),
        ),
    ),
    "host_namespaces": (
        an_assignment(network=NetworkMode.HOST, user_namespace=UserNamespace.HOST),
        replace(
            CONTEXT, devices=(DeviceNode(path="/dev/fuse", kind="c", major=10, minor=229),)
        ),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_config_is_as_recorded(case: str) -> None:
    """Each assignment becomes exactly the recorded config.json and filter, and ours reads it."""
    assignment, context = CASES[case]
    document = build(assignment, AnImage(), context)
    parse.config(document)
    linux = document["linux"]
    assert isinstance(linux, dict)
    seccomp = linux.pop("seccomp")
    for name, found in ((case, document), (f"{case}.seccomp", seccomp)):
        text = json.dumps(found, indent=1, sort_keys=True) + "\n"
        path = HERE / f"{name}.json"
        if os.environ.get("BAYPLAN_GOLDEN") == "write":
            path.write_text(text)
        assert text == path.read_text()


@pytest.mark.parametrize(
    ("command", "args", "expected"),
    [
        ((), (), ["/entry", "serve"]),
        ((), ("x",), ["/entry", "x"]),
        (("c",), (), ["c"]),
        (("c",), ("x",), ["c", "x"]),
    ],
)
def test_command_line(command: tuple[str, ...], args: tuple[str, ...], expected: list[str]) -> None:
    """command replaces entrypoint and cmd, args replaces cmd."""
    document = build(an_assignment(command=command, args=args), AnImage(), CONTEXT)
    assert document["process"]["args"] == expected  # type: ignore[index]


def test_no_command_is_refused() -> None:
    """An image without a command needs one in the spec."""
    with pytest.raises(InvalidSpec, match="neither entrypoint nor cmd"):
        build(an_assignment(), AnImage(entrypoint=(), cmd=()), CONTEXT)


def test_binary_secret_in_env_is_refused_without_showing_it() -> None:
    """A secret that is not text cannot be a variable; the error and its chain hide the value."""
    variable = EnvVar(name="KEY", secret=SecretReference(name="db", key="key"))
    with pytest.raises(InvalidSpec) as caught:
        build(an_assignment(env=(variable,)), AnImage(), CONTEXT)
    error: BaseException | None = caught.value
    while error is not None:
        assert "\\xff" not in repr(error)
        error = error.__context__


def test_unknown_capability_is_refused() -> None:
    """A capability that does not exist is named."""
    with pytest.raises(InvalidSpec, match='cap_add: "FLY" is not a capability'):
        build(an_assignment(cap_add=("FLY",)), AnImage(), CONTEXT)


def test_drop_all_then_add_one() -> None:
    """cap_drop ALL with cap_add leaves exactly what is added."""
    document = build(an_assignment(cap_drop=("ALL",), cap_add=("CHOWN",)), AnImage(), CONTEXT)
    sets = document["process"]["capabilities"]  # type: ignore[index]
    assert sets["bounding"] == ["CAP_CHOWN"]
