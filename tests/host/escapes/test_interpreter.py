"""The program that makes containers, from inside of one (CVE-2019-5736)."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.host.conformance.conftest import REPOSITORY, Runtime
from tests.host.escapes.conftest import INTERPRETER, PLACES
from tests.patience import PATIENCE

pytestmark = [pytest.mark.root, pytest.mark.timeout(60)]
# Executed by the runtime's own interpreter, which it keeps open and then makes room for: nobody
# runs it any more when it is written to, so that nothing but its mount can refuse.
EVIL = """\
#!/proc/self/exe -IS
import os
fd = os.open("/proc/self/exe", os.O_RDONLY)
os.set_inheritable(fd, True)
script = f"sleep 0.5; echo evil >/proc/self/fd/{fd} || echo refused; "
script += f"mount -o remount,bind,rw /proc/self/fd/{fd} || echo refused; "
script += f"echo evil >>/proc/self/fd/{fd} || echo refused; echo end"
os.execv("/bin/sh", ["sh", "-c", "{ " + script + "; } >/result 2>&1"])
"""


@pytest.fixture
def own(runtime: Runtime, tmp_path: Path) -> Runtime:
    """The runtime by a copy of the interpreter that nothing else runs, over an image in which that
    interpreter finds all it needs."""
    (tmp_path / "own").mkdir()
    interpreter = shutil.copy(INTERPRETER, tmp_path / "own" / INTERPRETER.name)
    program = tmp_path / "own/bayplan-runtime"
    program.write_text(
        f"#!{interpreter} -IS\nimport sys\nsys.path.insert(0, {str(REPOSITORY)!r})\n"
        "from agent.runtime.__main__ import main\nsys.exit(main())\n"
    )
    program.chmod(0o755)
    image = tmp_path / "image"
    shutil.copytree(runtime.rootfs, image, symlinks=True)
    for name in ("lib", "lib64"):
        if Path(f"/{name}").is_symlink():
            (image / name).symlink_to(f"usr/{name}")
    (image / "evil").write_text(EVIL)
    (image / "evil").chmod(0o755)
    runtime.command, runtime.rootfs = [str(program)], image
    return runtime


def places(document: dict[str, Any]) -> None:
    document["mounts"] += [
        {"destination": p, "type": "bind", "source": p, "options": ["rbind", "ro"]} for p in PLACES
    ]


def end_of(own: Runtime) -> list[str]:
    """What the attack says."""
    result = own.rootfs / "result"
    script = f"while ! grep -q end {result}; do sleep 0.05; done"
    subprocess.run(
        ["sh", "-c", script], timeout=20 * PATIENCE, check=True, stderr=subprocess.DEVNULL
    )
    return result.read_text().splitlines()


def was_refused(own: Runtime, before: bytes) -> None:
    said = end_of(own)
    assert sum("Read-only file system" in line for line in said) == 2, said
    assert said.count("refused") == 3
    assert (own.directory / "own" / INTERPRETER.name).read_bytes() == before


def test_command_is_the_interpreter(own: Runtime) -> None:
    """The container's command makes the kernel execute the runtime again, and writes to it when
    it has ended."""
    before = (own.directory / "own" / INTERPRETER.name).read_bytes()
    own.started("/evil", change=places)
    was_refused(own, before)


def test_exec_of_the_interpreter(own: Runtime) -> None:
    """The same by a command that is executed in a running container."""
    before = (own.directory / "own" / INTERPRETER.name).read_bytes()
    uid = own.started("sleep", "60", change=places)
    own.ok("exec", "--detach", uid, "/evil")
    was_refused(own, before)
    own.ok("kill", uid, "KILL")
