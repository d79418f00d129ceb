"""Mount options."""

from __future__ import annotations

import pytest

from agent.runtime import options
from agent.runtime.failure import RuntimeFailure
from agent.runtime.options import Options
from agent.runtime.spec import Mount
from agent.syscalls import mounts as m


def parse(*words: str) -> Options:
    return options.parse(Mount(destination="/x", options=words, path="mounts[0]"))


def test_attributes_and_what_is_the_file_systems_own() -> None:
    """Known words become attributes, the rest goes to the file system."""
    found = parse("nosuid", "ro", "mode=755", "newinstance", "defaults")
    assert found.set_ == m.ATTR_NOSUID | m.ATTR_RDONLY
    assert found.own == ((b"mode", b"755"), (b"newinstance", None))


def test_the_last_word_counts() -> None:
    """ro then rw is rw, and the other way round."""
    assert parse("ro", "rw").set_ == 0
    assert parse("rw", "ro").read_only
    assert parse("noatime", "relatime").set_ & m.ATTR_ATIME_MASK == m.ATTR_RELATIME


def test_recursive_words() -> None:
    """rro is recursive; relatime and rbind are words of their own."""
    found = parse("rbind", "rro", "relatime", "rslave")
    assert (found.recursive_set, found.bind, found.recursive) == (m.ATTR_RDONLY, True, True)
    assert found.propagation == ((m.MS_SLAVE, True),)


def test_refused() -> None:
    """What is not done is refused by name."""
    with pytest.raises(RuntimeFailure, match=r'mounts\[0\]\.options: "remount" is not supp'):
        parse("remount")
