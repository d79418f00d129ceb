"""What an operator may write for an etcd of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from bayplan.model.errors import InvalidSpec
from controller.store.etcd import EtcdConfig


@pytest.mark.parametrize(
    "endpoint",
    [
        "https://etcd-1.example:2379",
        "https://[2001:db8::1]:2379",
        "http://127.0.0.1:2379",
        "unix:/s",
    ],
)
def test_endpoints_that_work(endpoint: str) -> None:
    """TLS anywhere, plain text on this machine only."""
    assert (endpoint,) == EtcdConfig(endpoints=(endpoint,)).endpoints


@pytest.mark.parametrize(
    ("endpoint", "sentence"),
    [
        ("etcd-1:2379", "is no etcd endpoint"),
        ("ftp://etcd-1", "is no etcd endpoint"),
        ("https://etcd-1/path", "is no etcd endpoint"),
        ("https://etcd-1:port", "is no etcd endpoint"),
        ("http://10.0.0.1:2379", "in the clear"),
    ],
)
def test_endpoints_that_do_not(endpoint: str, sentence: str) -> None:
    """Refused before anything is sent, with what to write instead."""
    with pytest.raises(InvalidSpec, match=sentence):
        EtcdConfig(endpoints=(endpoint,))


def test_half_a_certificate() -> None:
    """A certificate without its key is a mistake worth naming."""
    with pytest.raises(InvalidSpec, match="together"):
        EtcdConfig(endpoints=("https://a",), certificate_file=Path("c.pem"))
    with pytest.raises(InvalidSpec, match="at least one"):
        EtcdConfig(endpoints=())


def test_the_password_is_not_shown() -> None:
    """A configuration may stand in a log line."""
    config = EtcdConfig(endpoints=("https://a",), user="bayplan", password="hunter2")
    assert "hunter2" not in repr(config)
