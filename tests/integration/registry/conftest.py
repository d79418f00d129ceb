"""A real registry process with real certificates."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
from collections.abc import Iterator
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
    authority = pki.make_ca("test")
    (tmp_path / "ca.pem").write_text(authority.certificate_pem)
    kinds = {
        "server": pki.Holder.CONTROLLER,
        "node": pki.Holder.NODE,
        "operator": pki.Holder.OPERATOR,
        "stranger": pki.Holder.OPERATOR,
    }
    for who, kind in kinds.items():
        made = pki.make_credentials(authority, kind, who, names=["localhost", "127.0.0.1"])
        (tmp_path / f"{who}.pem").write_text(made.certificate_pem)
        pki.write_private(tmp_path / f"{who}.key", made.key_pem)
    holders = {
        serial_of(tmp_path / "node.pem"): Holder("h1", Access.PULL),
        serial_of(tmp_path / "operator.pem"): Holder("admin", Access.PUSH),
    }
    access.write(tmp_path / "access.json", holders)
    command = [sys.executable, "-m", "controller.registry", "--root", str(tmp_path / "registry")]
    command += ["--listen", "127.0.0.1:0", "--access", str(tmp_path / "access.json")]
    command += [
        "--certificate",
        str(tmp_path / "server.pem"),
        "--key",
        str(tmp_path / "server.key"),
    ]
    command += ["--ca", str(tmp_path / "ca.pem")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        address = process.stdout.readline().strip()
        yield RunningRegistry(address, tmp_path, tmp_path / "registry", tmp_path / "access.json")
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
