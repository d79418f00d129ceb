"""The files of a bundle on disk."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from agent.bundle.bundles import Bundles, Sources
from bayplan.model.assignment import Assignment
from bayplan.model.service import TaskTemplate
from bayplan.model.task import Task


@dataclass(frozen=True)
class Configuration:
    """Of an image that only names what it runs."""

    user: str = ""
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ("/bin/serve",)
    env: tuple[str, ...] = ()
    working_dir: str = ""


@dataclass(frozen=True)
class Image:
    layers: tuple[Path, ...]
    config: Configuration = Configuration()


def an_assignment(*command: str) -> Assignment:
    task = Task(
        namespace="default",
        service="web",
        service_uid="s1",
        slot=1,
        attempt=1,
        uid="t1",
        generation=1,
        template_hash="a",
    )
    return Assignment(task=task, template=TaskTemplate(image="web:1", command=command))


def test_a_new_incarnation_leaves_nothing_of_the_last_ones_files(tmp_path: Path) -> None:
    """What is shorter than before is cut, and a mode that was widened is tight again."""
    bundles, image = Bundles(tmp_path / "tasks", cgroup_root="/bay"), Image((tmp_path / "layer",))
    bundles.write(an_assignment("x" * 5000), image, id_base=0, sources=Sources())
    directory = bundles.directory("t1")
    (directory / "layers.json").write_text("[" * 9000)
    (directory / "layers.json").chmod(0o666)
    bundles.add_host("t1", "10.0.0.9", "web.1.1")
    bundles.write(an_assignment("serve"), image, id_base=0, sources=Sources())
    modes = {name: (directory / name).stat().st_mode & 0o777 for name in ("layers.json", "etc")}
    assert modes == {"layers.json": 0o600, "etc": 0o755}
    assert json.loads((directory / "layers.json").read_bytes())["layers"] == [
        str(tmp_path / "layer")
    ]
    assert "10.0.0.9" not in (directory / "etc/hosts").read_text()
    document = json.loads((directory / "config.json").read_bytes())
    assert document["process"]["args"] == ["serve"]


def test_what_may_hold_secrets_is_written_in_the_tasks_memory(tmp_path: Path) -> None:
    """config.json is a link into the private directory, and nobody else may read it."""
    private = tmp_path / "private"
    private.mkdir()
    bundles, image = Bundles(tmp_path / "tasks", cgroup_root="/bay"), Image((tmp_path / "layer",))
    bundles.write(an_assignment("serve"), image, id_base=0, sources=Sources(private=private))
    path = bundles.directory("t1") / "config.json"
    assert path.is_symlink()
    assert path.resolve() == private / "config.json"
    assert (private / "config.json").stat().st_mode & 0o777 == 0o600
