"""Containers for attackers: with Python inside, and with the runtime's command line outside."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bayplan.model.service import Mount, MountKind
from tests.host.conformance.conftest import CGROUP as COMMAND_LINE_CGROUP
from tests.host.conformance.conftest import CGROUPS, Runtime, program, rootfs  # noqa: F401  fixtures
from tests.host.runtime.conftest import (  # noqa: F401  fixtures, used here too
    Rig,
    _no_cgroup_left,
    host,
    layers,
    rig,
)

HERE = Path(__file__).parent
# Where an interpreter and what it loads lie on the host, and so in the container.
PYTHON = Path(sys.base_prefix)
INTERPRETER = Path(sys.executable).resolve()
SYSTEM = ("/usr/lib", *(["/usr/lib64"] if Path("/usr/lib64").is_dir() else []))
PLACES = tuple(dict.fromkeys([*SYSTEM, *([] if Path("/usr") == PYTHON else [str(PYTHON)])]))


@pytest.fixture(scope="session")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A layer with the attackers' scripts and the links that a distribution has in its root."""
    top: Path = tmp_path_factory.mktemp("tools")
    for name in ("lib", "lib64"):
        if Path(f"/{name}").is_symlink():
            (top / name).symlink_to(f"usr/{name}")
    for name in ("attempts.py", "watcher.py"):
        shutil.copy(HERE / name, top / name)
    if Path("/usr") == PYTHON:
        (top / "usr/bin").mkdir(parents=True)
        shutil.copy(INTERPRETER, top / "usr/bin" / INTERPRETER.name)
    return top


@pytest.fixture
def attacker(rig: Rig, tools: Path) -> Rig:  # noqa: F811
    """Its containers can run INTERPRETER."""
    rig.layers = (*rig.layers, tools)
    return rig


def with_python(**template: Any) -> dict[str, Any]:
    """What a template needs for it."""
    mounts = tuple(
        Mount(target=place, kind=MountKind.BIND, source=place, read_only=True) for place in PLACES
    )
    return {**template, "mounts": (*mounts, *template.pop("mounts", ()))}


@pytest.fixture
def runtime(program: Path, rootfs: Path, tmp_path: Path) -> Iterator[Runtime]:  # noqa: F811
    """Ours, by its command line."""
    made = Runtime("native", [str(program)], tmp_path, rootfs)
    yield made
    made.close()


@pytest.fixture(scope="session", autouse=True)
def _no_command_line_cgroup_left() -> Iterator[None]:
    yield
    for parent in CGROUPS.glob(f"*{COMMAND_LINE_CGROUP}"):
        parent.rmdir()
