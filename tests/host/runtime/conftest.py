"""Bundles over a busybox root, and a place that is clean afterwards."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from agent.bundle.config import BundleContext, build
from agent.runtime import bundle, create, delete, kill, preloaded, start
from agent.runtime.cgroups import oom_killed
from agent.runtime.container import Container
from agent.runtime.preloaded import Preloaded
from agent.runtime.stdio import Stdio
from bayplan.model.assignment import Assignment
from bayplan.model.service import TaskTemplate
from bayplan.model.task import Task

ID_BASE = 1_200_000_000
CGROUP = f"/bayplan-runtime-test-{os.getpid()}"


@dataclass(frozen=True)
class AnImage:
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ("true",)
    env: tuple[str, ...] = ("PATH=/bin",)
    working_dir: str = ""


@dataclass(frozen=True)
class Finished:
    """How a container ended. `status`: exit code, or minus the signal."""

    status: int
    out: str
    err: str
    oom_killed: bool
    container: Container


@pytest.fixture(scope="session")
def layers() -> Iterator[tuple[Path, Path]]:
    """Two layers: busybox with its links, and a second one over it."""
    top = Path(tempfile.mkdtemp(prefix="bayplan-runtime-layers-"))
    lower, upper = top / "base", top / "app"
    for name in ("bin", "etc", "tmp", "root"):
        (lower / name).mkdir(parents=True)
    (lower / "tmp").chmod(0o1777)
    busybox = shutil.which("busybox")
    assert busybox, "install busybox-static"
    shutil.copy(busybox, lower / "bin/busybox")
    names = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout
    for name in set(names.split()) - {"busybox"}:
        (lower / "bin" / name).symlink_to("busybox")
    (lower / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\n")
    (upper / "opt").mkdir(parents=True)
    (upper / "opt/file").write_text("from the second layer\n")
    (upper / "opt/plain").write_text("not executable\n")
    (upper / "opt/broken").write_text("#!/no/such/interpreter\n")
    (upper / "opt/broken").chmod(0o755)
    yield lower, upper
    shutil.rmtree(top)


@pytest.fixture(scope="session")
def host() -> Preloaded:
    """What a zygote works out once."""
    return preloaded.load()


@dataclass
class Rig:
    """Makes bundles and runs them; `close` ends and removes what a test left."""

    directory: Path
    layers: tuple[Path, ...]
    host: Preloaded
    containers: list[Container] = field(default_factory=list)
    made: int = 0

    def bundle(
        self, *command: str, change: Callable[[dict[str, Any]], None] | None = None,
        context: dict[str, Any] | None = None, **template: Any,
    ) -> bundle.Bundle:  # fmt: skip
        """A bundle built as the agent builds it; `change` edits the document."""
        self.made += 1
        uid = f"t{self.made}"
        path = self.directory / uid
        (path / "upper").mkdir(parents=True)
        (path / "work").mkdir()
        task = Task(
            namespace="test", service="rt", service_uid="s", slot=0, attempt=self.made, uid=uid,
            generation=1, template_hash="h",
        )  # fmt: skip
        assignment = Assignment(
            task=task, template=TaskTemplate(image="bb", command=command, **template)
        )
        decided: dict[str, Any] = {
            "hostname": uid, "cgroups_path": f"{CGROUP}/{uid}", "id_base": ID_BASE,
            "machine": os.uname().machine, **(context or {}),
        }  # fmt: skip
        document: dict[str, Any] = build(assignment, AnImage(), BundleContext(**decided))
        if change:
            change(document)
        (path / "config.json").write_text(json.dumps(document))
        layers = {
            "layers": [str(layer) for layer in self.layers],
            "upper": str(path / "upper"),
            "work": str(path / "work"),
        }
        (path / "layers.json").write_text(json.dumps(layers))
        return bundle.load(path)

    def create(self, made: bundle.Bundle, stdio: Stdio | None = None) -> Container:
        container = create.create(made.path.name, made, stdio or Stdio(), self.host)
        self.containers.append(container)
        return container

    def started(self, *command: str, **options: Any) -> Container:
        container = self.create(self.bundle(*command, **options))
        start.start(container)
        return container

    def run(self, *command: str, **options: Any) -> Finished:
        """Run to the end, with its output (at most a pipe's 64 KiB)."""
        return self.run_bundle(self.bundle(*command, **options))

    def run_bundle(self, made: bundle.Bundle) -> Finished:
        out, err = os.pipe(), os.pipe()
        try:
            container = self.create(made, Stdio(stdout=out[1], stderr=err[1]))
            start.start(container)
        finally:
            os.close(out[1])
            os.close(err[1])
        with os.fdopen(out[0]) as out_file, os.fdopen(err[0]) as err_file:
            texts = out_file.read(), err_file.read()
        status = wait(container.pid)
        return Finished(status, *texts, oom_killed(container.cgroup), container)

    def close(self) -> None:
        for container in self.containers:
            kill.kill_all(container.cgroup)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(container.pid, 0)
            delete.delete(container.state)
            container.close()


def wait(pid: int) -> int:
    """Exit code, or minus the signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.fixture
def rig(tmp_path: Path, layers: tuple[Path, ...], host: Preloaded) -> Iterator[Rig]:
    made = Rig(tmp_path, layers, host)
    yield made
    made.close()


@pytest.fixture(scope="session", autouse=True)
def _no_cgroup_left(host: Preloaded) -> Iterator[None]:
    yield
    for mount in host.hierarchy.mounts.values():
        parent = Path(mount + CGROUP)
        if parent.is_dir():
            parent.rmdir()
