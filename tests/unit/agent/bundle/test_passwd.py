"""Users of an image, out of its layers."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.bundle.passwd import UnknownUser, User, resolve


def a_layer(path: Path, *, passwd: str | None = None, group: str | None = None) -> Path:
    (path / "etc").mkdir(parents=True)
    for name, text in (("passwd", passwd), ("group", group)):
        if text is not None:
            (path / "etc" / name).write_text(text)
    return path


PASSWD = "root:x:0:0::/root:/bin/sh\nweb:x:101:102::/www:/bin/false\n"
GROUP = "web:x:102:\nlogs:x:103:web,other\n"


def test_names_ids_and_groups(tmp_path: Path) -> None:
    """As the Dockerfile reference has USER."""
    layers = [a_layer(tmp_path / "a", passwd=PASSWD, group=GROUP)]
    assert resolve("", layers) == User(uid=0, gid=0, home="/root")
    assert resolve("web", layers) == User(uid=101, gid=102, additional_gids=(103,), home="/www")
    assert resolve("web:logs", layers) == User(uid=101, gid=103, home="/www")
    assert resolve("1000", layers) == User(uid=1000, gid=0)
    assert resolve("1000:2000", layers) == User(uid=1000, gid=2000)


def test_the_topmost_layer_counts(tmp_path: Path) -> None:
    """A later layer's file replaces an earlier one's."""
    lower = a_layer(tmp_path / "a", passwd=PASSWD)
    upper = a_layer(tmp_path / "b", passwd="web:x:7:7::/:\n")
    assert resolve("web", [lower, upper]).uid == 7
    assert resolve("web", [lower, a_layer(tmp_path / "c")]).uid == 101


def test_unknown_names_are_said(tmp_path: Path) -> None:
    """With the name and the file."""
    layers = [a_layer(tmp_path / "a", passwd=PASSWD, group=GROUP)]
    with pytest.raises(UnknownUser, match='no user "bob"'):
        resolve("bob", layers)
    with pytest.raises(UnknownUser, match='no group "staff"'):
        resolve("web:staff", layers)
    with pytest.raises(UnknownUser, match="above 65535"):
        resolve("70000", layers)


def test_links_lead_nowhere(tmp_path: Path) -> None:
    """An image cannot have the host's files read for it."""
    (tmp_path / "host").write_text("evil:x:0:0::/:\n")
    layer = a_layer(tmp_path / "a")
    (layer / "etc/passwd").symlink_to(tmp_path / "host")
    with pytest.raises(UnknownUser):
        resolve("evil", [layer])
    other = tmp_path / "b"
    other.mkdir()
    (other / "etc").symlink_to("/etc")
    with pytest.raises(UnknownUser):
        resolve("daemon", [other])


def test_a_number_is_no_name(tmp_path: Path) -> None:
    """An image cannot make root of a numeric id by calling its root so (CVE-2016-3697)."""
    layers = [a_layer(tmp_path / "a", passwd="1000:x:0:0::/:\n", group="2000:x:0:\n")]
    assert resolve("1000:2000", layers) == User(uid=1000, gid=2000)
    assert resolve("1000", layers) == User(uid=1000, gid=0)
