"""A runtime behind its command line, and bundles for it."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.host.conformance.clauses import RUNC_DIFFERS, RUNC_DIFFERS_ON_V2
from tests.patience import PATIENCE

REPOSITORY = Path(__file__).parents[3]
CGROUP = f"/bayplan-conformance-{os.getpid()}"
CGROUPS = Path("/sys/fs/cgroup")
COMMAND_S = 30 * PATIENCE
Document = dict[str, Any]
Change = Callable[[Document], None]
_CAPABILITIES = ["CAP_CHOWN", "CAP_KILL", "CAP_MKNOD", "CAP_SYS_ADMIN"]
BASE: Document = {
    "ociVersion": "1.0.2",
    "process": {
        "user": {"uid": 0, "gid": 0},
        "args": ["true"],
        "env": ["PATH=/bin"],
        "cwd": "/",
        "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), _CAPABILITIES),
    },
    "root": {"path": "rootfs"},
    "mounts": [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
         "options": ["nosuid", "mode=755", "size=65536k"]},
        {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
         "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]},
        {"destination": "/dev/shm", "type": "tmpfs", "source": "shm"},
    ],
    "linux": {"namespaces": [{"type": t} for t in ("pid", "ipc", "uts", "mount", "network")]},
}  # fmt: skip


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


@dataclass
class Runtime:
    """`command` with its own --root. `close` ends and removes what a test left."""

    name: str
    command: list[str]
    directory: Path
    rootfs: Path
    ids: list[str] = field(default_factory=list)

    def call(self, *arguments: str | Path, **more: Any) -> Done:
        """Run a verb to its end."""
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            # Not pipes: a container that should not be would hold them open.
            done = subprocess.run(
                [*self.command, "--root", str(self.directory / "state"), *map(str, arguments)],
                stdin=subprocess.DEVNULL, stdout=out, stderr=err, check=False,
                timeout=COMMAND_S, **more,
            )  # fmt: skip
            out.seek(0)
            err.seek(0)
            return Done(done.returncode, out.read(), err.read())

    def ok(self, *arguments: str | Path, **more: Any) -> Done:
        done = self.call(*arguments, **more)
        assert done.status == 0, done.err
        return done

    def fails(self, *arguments: str | Path, **more: Any) -> str:
        """What it says about why it failed."""
        done = self.call(*arguments, **more)
        assert done.status != 0, f"{arguments} was accepted: {done.out}"
        assert "Traceback" not in done.err
        return done.err

    def bundle(self, *args: str, change: Change | None = None) -> Path:
        uid = f"c{len(self.ids)}"
        self.ids.append(uid)
        path = self.directory / uid
        path.mkdir()
        document = copy.deepcopy(BASE)
        document["process"]["args"] = list(args) or ["true"]
        document["linux"]["cgroupsPath"] = f"{CGROUP}/{uid}"
        document["root"]["path"] = str(self.rootfs)
        if change:
            change(document)
        (path / "config.json").write_text(json.dumps(document))
        return path

    def run(self, *args: str, change: Change | None = None, **more: Any) -> Done:
        """Run a container to its end and delete it."""
        path = self.bundle(*args, change=change)
        return self.call("run", "--bundle", path, path.name, **more)

    def sh(self, script: str, change: Change | None = None, **more: Any) -> list[str]:
        """The lines a shell script prints in a container; it must succeed."""
        done = self.run("sh", "-c", script, change=change, **more)
        assert done.status == 0, done.err
        return done.lines

    def refuses(self, change: Change) -> str:
        """`create` of such a bundle fails; what it says."""
        path = self.bundle(change=change)
        return self.fails("create", "--bundle", path, path.name)

    def created(self, *args: str, change: Change | None = None) -> str:
        """The id of a container that waits for `start`; its output goes to ID/out."""
        path = self.bundle(*args, change=change)
        with open(path / "out", "wb") as out:
            done = subprocess.run(
                [*self.command, "--root", str(self.directory / "state"), "create",
                 "--bundle", str(path), path.name],
                stdin=subprocess.DEVNULL, stdout=out, stderr=out, timeout=COMMAND_S, check=False,
            )  # fmt: skip
        assert done.returncode == 0, (path / "out").read_text()
        return path.name

    def started(self, *args: str, change: Change | None = None) -> str:
        uid = self.created(*args, change=change)
        self.ok("start", uid)
        return uid

    def out(self, uid: str) -> str:
        return (self.directory / uid / "out").read_text()

    def state(self, uid: str) -> Document:
        document: Document = json.loads(self.ok("state", uid).out)
        return document

    def until(self, uid: str, status: str, deadline_s: float = 10.0 * PATIENCE) -> None:
        end = time.monotonic() + deadline_s
        while (now := self.state(uid)["status"]) != status:
            assert time.monotonic() < end, f"{uid} is {now}, not {status}"
            time.sleep(0.02)

    def close(self) -> None:
        for uid in self.ids:
            self.call("delete", "--force", uid)
        state = self.directory / "state"
        left = [n for n in (os.listdir(state) if state.is_dir() else []) if not n.startswith(".")]
        groups = [str(p) for p in CGROUPS.glob(f"*{CGROUP}/*") if p.is_dir()]
        assert (left, groups) == ([], [])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What runc does has to do with the kind of cgroups in one module only."""
    for item in items:
        over = getattr(item, "callspec", None)
        here = item.path.parent == Path(__file__).parent and item.path.stem != "test_resources"
        if here and over and over.params.get("runtime") == "runc":
            item.add_marker(pytest.mark.runc)


@pytest.fixture(scope="session")
def program() -> Iterator[Path]:
    """bayplan-runtime as an executable file, as engines want it."""
    top = Path(tempfile.mkdtemp(prefix="bayplan-conformance-"))
    path = top / "bayplan-runtime"
    path.write_text(
        f"#!{sys.executable} -IS\nimport sys\nsys.path.insert(0, {str(REPOSITORY)!r})\n"
        "from agent.runtime.__main__ import main\nsys.exit(main())\n"
    )
    path.chmod(0o755)
    yield path
    shutil.rmtree(top)


@pytest.fixture(scope="session")
def rootfs() -> Iterator[Path]:
    top = Path(tempfile.mkdtemp(prefix="bayplan-conformance-root-"))
    top.chmod(0o755)
    for name in ("bin", "etc", "tmp", "proc", "dev", "sys", "mnt", "hidden"):
        (top / name).mkdir()
    busybox = shutil.which("busybox")
    assert busybox, "install busybox-static"
    shutil.copy(busybox, top / "bin/busybox")
    names = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout
    for name in set(names.split()) - {"busybox"}:
        (top / "bin" / name).symlink_to("busybox")
    (top / "etc/plain").write_text("not executable\n")
    (top / "hidden/file").write_text("visible\n")
    yield top
    shutil.rmtree(top)


@pytest.fixture(params=["native", "runc"])
def runtime(
    request: pytest.FixtureRequest, program: Path, rootfs: Path, tmp_path: Path
) -> Iterator[Runtime]:
    """Each test runs over both; where runc is known to differ, it must."""
    command = [str(program)]
    if request.param == "runc":
        if shutil.which("runc") is None:
            pytest.skip("runc is not installed")
        command = ["runc"]
        why = RUNC_DIFFERS.get(request.function.__name__)
        if (CGROUPS / "cgroup.controllers").exists():
            why = why or RUNC_DIFFERS_ON_V2.get(request.function.__name__)
        if why:
            request.applymarker(pytest.mark.xfail(reason=why, strict=True))
    made = Runtime(request.param, command, tmp_path, rootfs)
    yield made
    made.close()


@pytest.fixture(scope="session", autouse=True)
def _no_cgroup_left() -> Iterator[None]:
    yield
    for parent in CGROUPS.glob(f"*{CGROUP}"):
        with contextlib.suppress(FileNotFoundError):
            parent.rmdir()
