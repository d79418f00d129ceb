"""What this host's own configuration allows a task; a controller cannot lift it."""

from __future__ import annotations

from posixpath import normpath

from agent.config import Ceilings
from bayplan.model.service import MountKind, NetworkMode, TaskTemplate, UserNamespace

# The set every container has (Docker's), which `cap_add` may therefore always name.
DEFAULT_CAPABILITIES: frozenset[str] = frozenset(
    {
        "CAP_AUDIT_WRITE",
        "CAP_CHOWN",
        "CAP_DAC_OVERRIDE",
        "CAP_FOWNER",
        "CAP_FSETID",
        "CAP_KILL",
        "CAP_MKNOD",
        "CAP_NET_BIND_SERVICE",
        "CAP_NET_RAW",
        "CAP_SETFCAP",
        "CAP_SETGID",
        "CAP_SETPCAP",
        "CAP_SETUID",
        "CAP_SYS_CHROOT",
    }
)


def registry_of(reference: str) -> str:
    """The registry host an image reference names; empty: the cluster's own registry."""
    first, slash, _ = reference.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        return first
    return ""


def within(path: str, allowed: str) -> bool:
    """True where `path` is `allowed` or below it, by name alone (links are the volumes' part)."""
    allowed = normpath(allowed)
    return path == allowed or path.startswith(allowed.rstrip("/") + "/")


def capability(name: str) -> str:
    """`net_admin`, `NET_ADMIN` and `CAP_NET_ADMIN` are one."""
    upper = name.upper()
    return upper if upper.startswith("CAP_") or upper == "ALL" else f"CAP_{upper}"


def refusal(template: TaskTemplate, allow: Ceilings) -> str:
    """Why this host does not run the template, as one sentence; empty where it does."""
    for mount in template.mounts:
        if mount.kind is MountKind.BIND and not _bind_allowed(mount.source, allow):
            return (
                f"a bind mount of {mount.source} is not allowed on this host; "
                f"list it under allow.bind in {allow.source}, or use a volume"
            )
    allowed_capabilities = {capability(c) for c in allow.capabilities}
    for name in map(capability, template.cap_add):
        if name not in allowed_capabilities | DEFAULT_CAPABILITIES and (
            "ALL" not in allowed_capabilities
        ):
            return (
                f"capability {name} is not allowed on this host; "
                f"list it under allow.capabilities in {allow.source}"
            )
    if template.network is NetworkMode.HOST and not allow.host_network:
        return (
            "network: host is not allowed on this host; "
            f"set allow.host_network: true in {allow.source}"
        )
    if template.user_namespace is UserNamespace.HOST and not allow.userns_host:
        return (
            "userns: host is not allowed on this host; "
            f"set allow.userns_host: true in {allow.source}"
        )
    registry = registry_of(template.image)
    if registry and allow.registries is not None and registry not in allow.registries:
        return (
            f"images from {registry} are not allowed on this host; "
            f"list it under allow.registries in {allow.source}"
        )
    return ""


def _bind_allowed(source: str, allow: Ceilings) -> bool:
    return (
        source.startswith("/")
        and normpath(source) == (source.rstrip("/") or "/")
        and any(within(normpath(source), path) for path in allow.bind)
    )
