"""Mount options as config.json writes them (OCI runtime spec, "Linux mount options")."""

from __future__ import annotations

from dataclasses import dataclass

from agent.runtime.failure import RuntimeFailure
from agent.runtime.spec import Mount
from agent.syscalls import mounts as m

_PROPAGATION = {
    "private": m.MS_PRIVATE,
    "shared": m.MS_SHARED,
    "slave": m.MS_SLAVE,
    "unbindable": m.MS_UNBINDABLE,
}
# name: (attributes set, attributes cleared); with an "r" in front: recursively.
_ATTRIBUTES = {
    "ro": (m.ATTR_RDONLY, 0),
    "rw": (0, m.ATTR_RDONLY),
    "nosuid": (m.ATTR_NOSUID, 0),
    "suid": (0, m.ATTR_NOSUID),
    "nodev": (m.ATTR_NODEV, 0),
    "dev": (0, m.ATTR_NODEV),
    "noexec": (m.ATTR_NOEXEC, 0),
    "exec": (0, m.ATTR_NOEXEC),
    "noatime": (m.ATTR_NOATIME, m.ATTR_ATIME_MASK),
    "atime": (0, m.ATTR_ATIME_MASK),
    "relatime": (m.ATTR_RELATIME, m.ATTR_ATIME_MASK),
    "norelatime": (0, m.ATTR_ATIME_MASK),
    "strictatime": (m.ATTR_STRICTATIME, m.ATTR_ATIME_MASK),
    "nostrictatime": (0, m.ATTR_ATIME_MASK),
    "nodiratime": (m.ATTR_NODIRATIME, 0),
    "diratime": (0, m.ATTR_NODIRATIME),
    "nosymfollow": (m.ATTR_NOSYMFOLLOW, 0),
    "symfollow": (0, m.ATTR_NOSYMFOLLOW),
}
_WITHOUT_EFFECT = ("defaults", "async", "silent", "loud", "nomand", "noiversion", "nolazytime")
_REFUSED = ("remount", "move")
# Every word with a meaning of its own, for `features`.
WORDS = frozenset((
    *_ATTRIBUTES, *(f"r{word}" for word in _ATTRIBUTES), *_PROPAGATION,
    *(f"r{word}" for word in _PROPAGATION), *_WITHOUT_EFFECT, "bind", "rbind", "idmap", "ridmap",
    "tmpcopyup", "sync", "dirsync", "lazytime", "mand", "acl", "noacl", "iversion",
))  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the words mean. `propagation`: (MS_ flag, recursive) in order; `own`: what only the
    file system itself understands."""

    bind: bool = False
    recursive: bool = False
    idmap: bool = False
    idmap_recursive: bool = False
    copy_up: bool = False
    set_: int = 0
    clear: int = 0
    recursive_set: int = 0
    recursive_clear: int = 0
    propagation: tuple[tuple[int, bool], ...] = ()
    own: tuple[tuple[bytes, bytes | None], ...] = ()

    @property
    def read_only(self) -> bool:
        return bool((self.set_ | self.recursive_set) & m.ATTR_RDONLY)


def parse(mount: Mount) -> Options:
    """Read a mount's options; RuntimeFailure on those this runtime refuses."""
    bits = {False: [0, 0], True: [0, 0]}
    propagation: list[tuple[int, bool]] = []
    own: list[tuple[bytes, bytes | None]] = []
    words = set(mount.options)
    for word in mount.options:
        recursive = word.startswith("r") and word not in _ATTRIBUTES and word[1:] in _ATTRIBUTES
        name = word[1:] if recursive else word
        if name in _ATTRIBUTES:
            set_, clear = _ATTRIBUTES[name]
            bits[recursive] = [
                bits[recursive][0] & ~clear | set_,
                bits[recursive][1] & ~set_ | clear,
            ]
        elif word in _PROPAGATION:
            propagation.append((_PROPAGATION[word], False))
        elif word[:1] == "r" and word[1:] in _PROPAGATION:
            propagation.append((_PROPAGATION[word[1:]], True))
        elif word in _REFUSED:
            raise RuntimeFailure(
                f'"{word}" is not supported by this runtime', f"{mount.path}.options"
            )
        elif word not in ("bind", "rbind", "idmap", "ridmap", "tmpcopyup", *_WITHOUT_EFFECT):
            key, equals, value = word.partition("=")
            own.append((key.encode(), value.encode() if equals else None))
    bind = bool(words & {"bind", "rbind"}) or mount.kind in ("bind", "rbind")
    _check(mount, own, bind=bind)
    return Options(
        bind=bind,
        copy_up="tmpcopyup" in words,
        recursive="rbind" in words or mount.kind == "rbind",
        idmap=bool(words & {"idmap", "ridmap"}) or bool(mount.uid_mappings),
        idmap_recursive="ridmap" in words,
        set_=bits[False][0],
        clear=bits[False][1],
        recursive_set=bits[True][0],
        recursive_clear=bits[True][1],
        propagation=tuple(propagation),
        own=tuple(own),
    )


def _check(mount: Mount, own: list[tuple[bytes, bytes | None]], *, bind: bool) -> None:
    """What would otherwise have no effect."""
    words = set(mount.options)
    field = f"{mount.path}.options"
    if bind and own:
        raise RuntimeFailure(f'"{own[0][0].decode()}" is not an option of a bind mount', field)
    if not bind and (words & {"idmap", "ridmap"} or mount.uid_mappings or mount.gid_mappings):
        raise RuntimeFailure("only bind mounts can have their ids mapped", field)
    if "tmpcopyup" in words and mount.kind != "tmpfs":
        raise RuntimeFailure('"tmpcopyup" is for tmpfs only', field)


def apply(mount_fd: int, options: Options) -> None:
    """Set attributes and propagation on a mount."""
    if options.set_ or options.clear:
        m.mount_setattr(mount_fd, set_=options.set_, clear=_clear(options.set_, options.clear))
    if options.recursive_set or options.recursive_clear:
        clear = _clear(options.recursive_set, options.recursive_clear)
        m.mount_setattr(mount_fd, set_=options.recursive_set, clear=clear, recursive=True)
    for flag, recursive in options.propagation:
        m.mount_setattr(mount_fd, propagation=flag, recursive=recursive)


def _clear(set_: int, clear: int) -> int:
    """The access time field is cleared as a whole or not at all (mount_setattr(2))."""
    if set_ & m.ATTR_ATIME_MASK or clear & m.ATTR_ATIME_MASK:
        return clear & ~set_ | m.ATTR_ATIME_MASK
    return clear & ~set_
