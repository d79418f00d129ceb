"""A hostile process, root in a container as the agent makes it by default."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from bayplan.model.service import UserNamespace
from tests.host.escapes.conftest import INTERPRETER, with_python
from tests.host.runtime.conftest import Rig
from tests.patience import PATIENCE

pytestmark = [pytest.mark.root, pytest.mark.timeout(60)]
USERS = pytest.mark.parametrize("users", [UserNamespace.PRIVATE, UserNamespace.HOST])


@pytest.fixture
def victim() -> Iterator[int]:
    """A process of the host with a pid that no container has."""
    process = subprocess.Popen(["sleep", "600"])
    assert process.pid > 64
    yield process.pid
    process.kill()
    process.wait()


@pytest.fixture
def marker() -> Iterator[Path]:
    """A file of the host, for who gets there."""
    with tempfile.NamedTemporaryFile(prefix="bayplan-escape-", dir="/var/tmp") as file:
        os.chmod(file.name, 0o644)
        yield Path(file.name)


@USERS
def test_attempts(attacker: Rig, users: UserNamespace, victim: int, marker: Path) -> None:
    """Every attempt of attempts.py is refused, and each was really made."""
    name = f"bayplan-escape-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"\0{name}")
        listener.listen(1)
        ended = attacker.run(
            str(INTERPRETER), "-IS", "/attempts.py", str(victim), name, str(marker),
            **with_python(user_namespace=users),
        )  # fmt: skip
    assert ended.status == 0, ended.err
    outcome: dict[str, str] = json.loads(ended.out)
    assert len(outcome) > 50
    assert {k: v for k, v in outcome.items() if not v.startswith("no: ")} == {}
    os.kill(victim, 0)


def test_attempts_succeed_on_the_host(victim: int, marker: Path) -> None:
    """Where nothing holds them back the same attempts get through, so that they are real ones."""
    script = Path(__file__).parent / "attempts.py"
    name = f"bayplan-escape-host-{os.getpid()}"
    code = (
        "import json, runpy, sys; sys.argv = sys.argv[1:];"
        "them = runpy.run_path(sys.argv[0])['ATTEMPTS'];"
        "wanted = ('processes_of_the_host', 'abstract_sockets', 'call_fsopen', 'call_keyctl');"
        "print(json.dumps({name: them[name]() for name in wanted}))"
    )
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"\0{name}")
        listener.listen(1)
        done = subprocess.run(
            [sys.executable, "-c", code, script, str(victim), name, str(marker)],
            capture_output=True, text=True, timeout=30 * PATIENCE, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout)
    assert "'kill', 'pidfd_open'" in outcome["processes_of_the_host"]
    assert outcome["abstract_sockets"] == "connected"
    assert outcome["call_fsopen"] == outcome["call_keyctl"] == "let through"


@USERS
def test_setuid_programs_give_nothing(attacker: Rig, users: UserNamespace) -> None:
    """no_new_privs: a set-uid root program of the image runs as who calls it."""
    context = {"uid": 1000, "gid": 1000}
    lower = attacker.layers[0]
    program = attacker.directory / "suid"
    program.mkdir()
    (program / "id").write_bytes((lower / "bin/busybox").read_bytes())
    (program / "id").chmod(0o6755)
    attacker.layers = (*attacker.layers, program)
    ended = attacker.run("/id", "-u", context=context, user_namespace=users)
    assert ended.out == "1000\n"
