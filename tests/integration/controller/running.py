"""A controller as users run it: a process of its own on a managed etcd, on free ports."""

from __future__ import annotations

import json
import os
import signal
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from bayplan import client as clients
from bayplan import pki
from bayplan.client import Client, Credentials
from bayplan.contexts import (
    CONFIG_ENV,
    CONTEXT_ENV,
    Context,
    load_config,
    save_config,
    store_credentials,
)
from bayplan.wire._pb.bayplan.v1 import control_pb2 as control
from bayplan.wire._pb.bayplan.v1 import types_pb2

START_S = 30.0


class Running:
    """One controller with its state in a directory of the test's."""

    def __init__(
        self,
        directory: Path,
        *flags: str,
        name: str = "test",
        log: Path | None = None,
        program: tuple[str, ...] = ("-m", "controller"),
    ) -> None:
        self._program = program
        self.state = directory / "state"
        self._log = log or directory / "controller.log"
        self._flags = (f"--name={name}", *flags)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns once it serves."""
        (self.state / "addresses.json").unlink(missing_ok=True)
        flags = [f"--{n}=127.0.0.1:0" for n in ("listen", "join-listen", "registry-listen")]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    *self._program,
                    f"--state-dir={self.state}",
                    *flags,
                    "--web-listen=127.0.0.1:0",
                    "--advertise=127.0.0.1",
                    *self._flags,
                ],
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + START_S
        while not (self.state / "addresses.json").exists():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"the controller did not start:\n{self.log()}")
            time.sleep(0.02)

    def log(self) -> str:
        return self._log.read_text() if self._log.is_file() else ""

    @property
    def addresses(self) -> dict[str, str]:
        found: dict[str, str] = json.loads((self.state / "addresses.json").read_text())
        return found

    @property
    def admin(self) -> Credentials:
        directory = self.state / "admin"
        return Credentials.from_files(
            directory / "ca.pem", directory / "cert.pem", directory / "key.pem"
        )

    def client(self, credentials: Credentials | None = None) -> Client:
        return Client([self.addresses["control"]], credentials or self.admin)

    def kill(self) -> None:
        """As kill -9 does: etcd stays behind."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(10)

    def terminate(self) -> tuple[int, float]:
        """Exit code of a clean stop, and how long it took."""
        assert self._process is not None
        begun = time.monotonic()
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(20), time.monotonic() - begun

    def etcd_pid(self) -> int:
        return int((self.state / "etcd" / "etcd.pid").read_text().split()[0])

    def clean(self) -> None:
        """Whatever is still there goes."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait(10)
        try:
            pid = self.etcd_pid()
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
            if b"etcd" in command:
                os.kill(pid, signal.SIGKILL)
        except (OSError, ValueError):
            return


def fetch(running: Running, path: str, directory: Path) -> tuple[int, bytes]:
    """Status and body of the web face, asked with the certificate of the directory."""
    context = ssl.create_default_context(cafile=str(directory / "ca.pem"))
    context.load_cert_chain(directory / "cert.pem", directory / "key.pem")
    url = f"https://{running.addresses['web']}{path}"
    try:
        with urllib.request.urlopen(url, context=context, timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def a_service(name: str = "web", *, image: str = "web:1", replicas: int | None = 2) -> Any:
    """A document for Apply."""
    from bayplan.model.service import ServiceSpec, TaskTemplate
    from bayplan.wire.convert import to_pb

    spec = ServiceSpec(name=name, template=TaskTemplate(image=image), replicas=replicas)
    return control.Document(service=to_pb(spec), source=f"name: {name}\nimage: {image}\n")


def applying(*documents: Any, dry_run: bool = False) -> control.ApplyRequest:
    return control.ApplyRequest(documents=documents, dry_run=dry_run)


async def a_user(
    running: Running, name: str, role: int, *, grant_exec: bool = False
) -> Credentials:
    """Log in as a new identity, the way `bay login` does."""
    async with running.client() as admin:
        request = control.SetIdentityRequest(name=name, role=role, exec=grant_exec)  # type: ignore[arg-type]
        await admin.set_identity(request)
        made = await admin.create_token(
            control.CreateTokenRequest(
                purpose=types_pb2.TOKEN_PURPOSE_OPERATOR, subject=name, lifetime_s=60
            )
        )
    key = pki.make_key()
    join = running.addresses["join"]
    ca = await clients.fetch_ca(join, pki.parse_token(made.token).ca_digest)
    answer = await clients.login(join, ca, token=made.token, csr_pem=pki.make_csr(key, name))
    return Credentials(ca_pem=ca, certificate_pem=answer.certificate_pem, key_pem=key.decode())


def a_context(
    running: Running, directory: Path, credentials: Credentials | None = None
) -> dict[str, str]:
    """Configuration of `bay` in the directory, and the environment that leads to it."""
    person = credentials or running.admin
    config = load_config(directory)
    ca, cert, key = store_credentials(
        config,
        "test",
        ca_pem=person.ca_pem,
        certificate_pem=person.certificate_pem,
        key_pem=person.key_pem.encode(),
    )
    addresses = (running.addresses["control"],)
    made = Context(name="test", controllers=addresses, ca=ca, cert=cert, key=key)
    save_config(config.with_context(made))
    return {CONFIG_ENV: str(directory), CONTEXT_ENV: ""}


async def a_node_token(running: Running, node: str = "", lifetime_s: float = 60.0) -> str:
    async with running.client() as admin:
        made = await admin.create_token(
            control.CreateTokenRequest(
                purpose=types_pb2.TOKEN_PURPOSE_NODE, subject=node, lifetime_s=lifetime_s
            )
        )
    return made.token


async def a_node(running: Running, name: str, token: str = "") -> Credentials:
    """Join as a host, the way an agent does."""
    token = token or await a_node_token(running)
    key = pki.make_key()
    join = running.addresses["join"]
    ca = await clients.fetch_ca(join, pki.parse_token(token).ca_digest)
    answer = await clients.join_node(
        join, ca, token=token, node=name, csr_pem=pki.make_csr(key, name)
    )
    return Credentials(ca_pem=ca, certificate_pem=answer.certificate_pem, key_pem=key.decode())
