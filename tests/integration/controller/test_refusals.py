"""A controller that cannot start says why in one sentence, by its exit code, and leaves nothing."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from controller.store.base import StoreRefused, StoreUnavailable
from controller.store.etcd import EtcdConfig, EtcdStore
from tests.integration.controller.running import Running
from tests.integration.store.test_tls import PASSWORD, Cluster, a_cluster, write_certificates
from tests.ports import some_ports

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Of an operator's own: TLS, client certificates, users. `reader` may only read."""
    users = (
        ["role", "add", "reader"],
        ["role", "grant-permission", "--prefix=true", "reader", "read", "/bayplan/v1/"],
        ["user", "add", f"reader:{PASSWORD}"],
        ["user", "grant-role", "reader", "reader"],
        ["user", "add", f"nobody:{PASSWORD}"],
    )
    with a_cluster(tmp_path_factory.mktemp("etcd"), users) as made:
        other = made.directory / "other"
        other.mkdir()
        write_certificates(other)
        (made.directory / "password").write_text(PASSWORD)
        (made.directory / "wrong").write_text("wrong")
        yield made


def flags(etcd: Cluster, **changed: str | Path) -> list[str]:
    d = etcd.directory
    settings: dict[str, str | Path] = {
        "etcd": etcd.url,
        "etcd-ca": d / "ca.pem",
        "etcd-cert": d / "client.pem",
        "etcd-key": d / "client.key",
        "etcd-user": "bayplan",
        "etcd-password-file": d / "password",
        **{name.replace("_", "-"): value for name, value in changed.items()},
    }
    return [f"--{name}={value}" for name, value in settings.items() if value]


def start(state: Path, *more: str) -> tuple[int, str]:
    """Exit code and the last line of a controller that ends by itself."""
    ports = [f"--{n}listen=127.0.0.1:0" for n in ("", "join-", "registry-", "web-")]
    command = [sys.executable, "-m", "controller", f"--state-dir={state}", *ports, *more]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stderr.splitlines()[-1]


def config(etcd: Cluster, changed: dict[str, str]) -> EtcdConfig:
    files = {n: etcd.directory / v if v else None for n, v in changed.items() if n.endswith("file")}
    others: dict[str, Any] = {n: v for n, v in changed.items() if n not in files}
    return replace(etcd.config, **files, **others)


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"password": "wrong"}, "refuses user bayplan: authentication failed"),
        ({"user": "nobody"}, "etcd refused to list /bayplan/v1/: permission denied"),
        ({"user": "", "password": ""}, "etcd refused to list /bayplan/v1/: permission denied"),
        ({"ca_file": "other/ca.pem"}, "is not trusted: "),
        (
            {"certificate_file": "other/client.pem", "key_file": "other/client.key"},
            "refuses the certificate of --etcd-cert",
        ),
        ({"certificate_file": "", "key_file": ""}, "wants a client certificate: "),
        ({"key_file": "other/client.key"}, "are not usable together: key values mismatch"),
        ({"ca_file": "password"}, "--etcd-ca .*/password is not usable: "),
    ],
)
async def test_etcd_refuses_us(etcd: Cluster, changed: dict[str, str], sentence: str) -> None:
    """Each cause is told apart, and final at the start, long before its deadline."""
    with pytest.raises(StoreRefused, match=sentence):
        await EtcdStore(config(etcd, changed)).start()


async def test_an_endpoint_that_does_not_speak_tls_is_named() -> None:
    """https to a port where something else listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        answering = threading.Thread(target=_babble, args=(server,), daemon=True)
        answering.start()
        url = f"https://127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(StoreRefused, match=f"what listens at {url} does not speak TLS"):
            await EtcdStore(EtcdConfig(endpoints=(url,))).start()
        server.shutdown(socket.SHUT_RDWR)
    answering.join(10)


def _babble(server: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            connection, _ = server.accept()
            with connection, contextlib.suppress(OSError):
                connection.recv(1000)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


async def test_one_endpoint_that_refuses_is_not_all(etcd: Cluster) -> None:
    """What may yet answer is waited for, to the deadline."""
    silent = f"https://127.0.0.1:{some_ports(1)[0]}"
    stranger = config(etcd, {"ca_file": "other/ca.pem"})
    with pytest.raises(StoreUnavailable, match="could not be read from etcd within 2 s") as ended:
        await EtcdStore(replace(stranger, endpoints=(silent, etcd.url))).start(2)
    assert ended.value.exit_code == 6


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"etcd_password_file": "wrong"}, "refuses user bayplan: authentication failed"),
        ({"etcd_user": "reader"}, "etcd refused to write below /bayplan/v1/: permission denied"),
    ],
)
def test_a_refused_start_leaves_nothing(
    etcd: Cluster, tmp_path: Path, changed: dict[str, str], sentence: str
) -> None:
    """4, one sentence, and neither state directory nor key nor credentials."""
    user = changed.get("etcd_user", "bayplan")
    password = etcd.directory / changed.get("etcd_password_file", "password")
    ended, line = start(
        tmp_path / "state", *flags(etcd, etcd_user=user, etcd_password_file=password)
    )
    assert line.startswith("bayplan-controller: ")
    assert sentence in line
    assert ended == 4
    assert list(tmp_path.iterdir()) == []


def test_a_port_in_use_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    """Named with its flag."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        ended, line = start(tmp_path / "state", f"--join-listen={where}")
    assert f"cannot listen on {where} (--join-listen): Address already in use" in line
    assert ended == 6
    assert list(tmp_path.iterdir()) == []


def test_one_cluster_has_one_key_and_a_directory_one_controller(
    etcd: Cluster, tmp_path: Path
) -> None:
    """A second controller without the first one's key is told to bring it, one on the same
    directory that it is taken; neither harms the first."""
    first = Running(tmp_path / "a", *flags(etcd), name="a")
    (tmp_path / "a").mkdir()
    first.start()
    try:
        ended, line = start(tmp_path / "b", *flags(etcd), "--name=b")
        assert f"there is none in {tmp_path}/b/kek.key; copy kek.key there" in line
        assert ended == 1
        ended, line = start(first.state, *flags(etcd), "--name=b")
        assert f"another controller runs with state directory {first.state}" in line
        assert ended == 2
        assert not (tmp_path / "b").exists()
        assert first.addresses
    finally:
        first.clean()
