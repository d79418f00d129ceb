"""Directories of the host that a task may bind, with a neighbour that may write to them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from agent.bundle.bundles import Bundles, Sources
from agent.runtime import bundle
from agent.runtime.failure import RuntimeFailure
from agent.volumes import Volumes
from bayplan.model.assignment import Assignment
from bayplan.model.service import Mount, MountKind, TaskTemplate
from bayplan.model.task import Task
from tests.host.runtime.conftest import CGROUP, ID_BASE, AnImage, Rig

pytestmark = [pytest.mark.root, pytest.mark.timeout(60)]


@dataclass(frozen=True)
class Configuration(AnImage):
    user: str = ""


@dataclass(frozen=True)
class Unpacked:
    layers: tuple[Path, ...]
    config: Configuration = Configuration()


async def made(rig: Rig, allowed: Path, source: Path) -> bundle.Bundle:
    """The bundle of a task that binds `source`, checked and written as an agent does it."""
    volumes = Volumes(rig.directory / "state", bind_allowed=[str(allowed)])
    binds = {str(source): str(await volumes.bind(str(source)))}
    task = Task(namespace="test", service="rt", service_uid="s", slot=0, attempt=1, uid="bound",
                generation=1, template_hash="h")  # fmt: skip
    template = TaskTemplate(
        image="bb", command=("cat", "/in/secret"),
        mounts=(Mount(target="/in", kind=MountKind.BIND, source=str(source)),),
    )  # fmt: skip
    bundles = Bundles(rig.directory / "tasks", cgroup_root=CGROUP)
    written = bundles.write(
        Assignment(task=task, template=template), Unpacked(rig.layers), id_base=ID_BASE,
        sources=Sources(binds=binds),
    )  # fmt: skip
    return bundle.load(written)


async def test_a_bind_is_swapped_after_the_check(rig: Rig, tmp_path: Path) -> None:
    """A neighbour that puts a link where the checked directory was does not choose what is bound
    (the class of CVE-2017-1002101), be it at the end of the path or above."""
    allowed, secret = tmp_path / "allowed", tmp_path / "elsewhere"
    for directory in (allowed / "a/b", secret / "b"):
        directory.mkdir(parents=True)
    for file in (secret / "secret", secret / "b/secret"):
        file.write_text("secret\n")
    (allowed / "a/b/secret").write_text("fine\n")
    before = await made(rig, allowed, allowed / "a/b")
    assert rig.run_bundle(before).out == "fine\n"
    for swapped in (allowed / "a/b", allowed / "a"):
        later = await made(rig, allowed, allowed / "a/b")
        swapped.rename(tmp_path / f"was-{swapped.name}")
        swapped.symlink_to(secret)
        with pytest.raises(RuntimeFailure, match="has become a link, or leads through one"):
            rig.run_bundle(later)
        swapped.unlink()
        (tmp_path / f"was-{swapped.name}").rename(swapped)
