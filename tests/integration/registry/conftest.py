"""A real registry process with real certificates."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from bayplan import pki
from bayplan.https import client_context
from bayplan.oci.registry import Endpoint
from controller.registry import access
from controller.registry.access import Access, Holder


@dataclass(frozen=True)
class RunningRegistry:
    """`folder/<who>.pem` and `.key` are certificates of node, operator and stranger."""

    host: str
    folder: Path
    root: Path
    access: Path

    def endpoint(self, who: str) -> Endpoint:
        certificate, key = self.folder / f"{who}.pem", self.folder / f"{who}.key"
        return Endpoint(self.host, tls=client_context(certificate, key, self.folder / "ca.pem"))


def serial_of(path: Path) -> str:
    return pki.serial_hex(pki.load_certificate(path.read_text()))


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[RunningRegistry]:
    _certify(tmp_path)
    with _running(tmp_path, tmp_path / "registry") as made:
        yield made


@pytest.fixture
def registries(tmp_path: Path) -> Iterator[tuple[RunningRegistry, ...]]:
    """Three, as of three controllers."""
    _certify(tmp_path)
    with ExitStack() as stack:
        roots = [tmp_path / f"registry{number}" for number in range(3)]
        yield tuple(stack.enter_context(_running(tmp_path, root)) for root in roots)


def _certify(folder: Path) -> None:
    authority = pki.make_ca("test")
    (folder / "ca.pem").write_text(authority.certificate_pem)
    kinds = {
        "server": pki.Holder.CONTROLLER,
        "node": pki.Holder.NODE,
        "operator": pki.Holder.OPERATOR,
        "stranger": pki.Holder.OPERATOR,
    }
    for who, kind in kinds.items():
        made = pki.make_credentials(authority, kind, who, names=["localhost", "127.0.0.1"])
        (folder / f"{who}.pem").write_text(made.certificate_pem)
        pki.write_private(folder / f"{who}.key", made.key_pem)
    holders = {
        serial_of(folder / "node.pem"): Holder("h1", Access.PULL),
        serial_of(folder / "operator.pem"): Holder("admin", Access.PUSH),
    }
    access.write(folder / "access.json", holders)


@contextmanager
def _running(folder: Path, root: Path) -> Iterator[RunningRegistry]:
    arguments = {
        "root": root,
        "listen": "127.0.0.1:0",
        "access": folder / "access.json",
        "certificate": folder / "server.pem",
        "key": folder / "server.key",
        "ca": folder / "ca.pem",
    }
    command = [sys.executable, "-m", "controller.registry"]
    command += [f"--{name}={value}" for name, value in arguments.items()]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        address = process.stdout.readline().strip()
        yield RunningRegistry(address, folder, root, folder / "access.json")
        process.stdin.close()  # what happens when the controller goes, however it goes
        assert process.wait(10) == 0


@pytest.fixture
def rootfs() -> io.BytesIO:
    """An archive with one program and one directory."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        member = tarfile.TarInfo("bin/app")
        content = b"#!/bin/sh\n" * 1000
        member.size, member.mode = len(content), 0o755
        archive.addfile(member, io.BytesIO(content))
    buffer.seek(0)
    return buffer
