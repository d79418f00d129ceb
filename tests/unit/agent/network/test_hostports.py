"""Listeners as /proc shows them."""

from pathlib import Path

from agent.network import hostports
from bayplan.model.service import Protocol

_HEADER = "  sl  local_address rem_address   st\n"


def test_listeners_only(tmp_path: Path) -> None:
    """A listening socket counts, an established connection does not."""
    directory = tmp_path / "self" / "net"
    directory.mkdir(parents=True)
    (directory / "tcp").write_text(
        _HEADER + "   0: 00000000:0050 00000000:0000 0A 0\n   1: 0100007F:1F90 0100007F:0051 01 0\n"
    )
    (directory / "udp").write_text(_HEADER + "   0: 00000000:0035 00000000:0000 07 0\n")
    assert hostports.in_use(tmp_path) == {(Protocol.TCP, 80), (Protocol.UDP, 53)}
