"""What a task sees of file systems: mounts, and files made of secrets."""

from __future__ import annotations

from collections.abc import Iterator

from bayplan.model.service import Mount, MountKind, TaskTemplate
from bayplan.model.validate.names import check_name, check_secret
from bayplan.model.validate.problems import Path, Problem

MOUNTS_MAX = 100
_PRIVATE_TARGETS = ("/proc", "/sys", "/dev")
_SHARED_MEMORY = "/dev/shm"  # noqa: S108 (a path in the container, which a tmpfs may resize)


def is_absolute(path: str) -> bool:
    """A path that the kernel takes (PATH_MAX)."""
    return path.startswith("/") and "\0" not in path and len(path) <= 4096


def _path_fault(path: str) -> str:
    """Why an absolute path of a mount or file will not do, or nothing."""
    if not is_absolute(path):
        better = "/".join(p for p in path.split("/") if p not in ("", ".", ".."))
        return f'"{path[:80]}" is not an absolute path; write e.g. /{better[:80] or "data"}'
    if ".." in path.split("/"):
        return f'"{path[:80]}" holds ".."; write the path it leads to'
    return ""


def _plain(path: str) -> str:
    return "/" + "/".join(p for p in path.split("/") if p not in ("", "."))


def _is_private(path: str) -> bool:
    return any(path == p or path.startswith(p + "/") for p in _PRIVATE_TARGETS)


def check_mounts(template: TaskTemplate) -> Iterator[Problem]:
    """Where things are mounted, and what."""
    if len(template.mounts) > MOUNTS_MAX:
        yield Problem(("mounts",), f"has {len(template.mounts)} mounts; at most {MOUNTS_MAX}")
    seen: dict[str, str] = {}
    for mount in template.mounts:
        path: Path = ("mounts", mount.target)
        if fault := _path_fault(mount.target):
            yield Problem(path, fault)
            continue
        target = _plain(mount.target)
        if target == "/":
            yield Problem(path, "would cover the root file system; mount below it")
        elif _is_private(target) and target != _SHARED_MEMORY:
            yield Problem(path, "is the container's own; mount elsewhere")
        if target in seen:
            yield Problem(path, f"is {seen[target]} already; leave one out")
        seen.setdefault(target, mount.target)
        yield from _mount_source(mount, path)


def _mount_source(mount: Mount, path: Path) -> Iterator[Problem]:
    match mount.kind:
        case MountKind.TMPFS:
            if mount.size_bytes <= 0:
                yield Problem((*path, "tmpfs"), "needs a size above 0; write e.g. 64MiB")
            if mount.read_only:
                yield Problem((*path, "read_only"), "makes no sense for a tmpfs; leave it out")
        case MountKind.VOLUME:
            yield from check_name(mount.source, (*path, "volume"))
        case MountKind.BIND:
            if fault := _path_fault(mount.source):
                yield Problem((*path, "bind"), fault)


def check_files(template: TaskTemplate) -> Iterator[Problem]:
    """Secrets as files, which are no mounts as well."""
    targets = {_plain(m.target) for m in template.mounts}
    seen: set[str] = set()
    for file in template.files:
        path: Path = ("files", file.path)
        if fault := _path_fault(file.path):
            yield Problem(path, fault)
            continue
        plain = _plain(file.path)
        if plain == "/" or file.path.endswith("/"):
            yield Problem(path, "is a directory; write the path of a file")
        elif _is_private(plain):
            yield Problem(path, "is the container's own; write e.g. /run/secrets/key")
        if plain in seen or plain in targets:
            yield Problem(path, "stands twice, or is a mount as well; leave one out")
        seen.add(plain)
        if not 0 <= file.mode <= 0o777:
            yield Problem((*path, "mode"), 'is not a file mode; write e.g. "0400"')
        yield from check_secret(file.secret, (*path, "secret"))
