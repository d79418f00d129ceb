"""Writing control files, so that a refusal names the field of config.json it comes from."""

from __future__ import annotations

from agent.runtime.cgroups.hierarchy import Cgroup, write
from agent.runtime.failure import RuntimeFailure


def or_max(value: int) -> str:
    """A limit as v2 writes it."""
    return "max" if value < 0 else str(value)


def set_(cgroup: Cgroup, controller: str, name: str, value: int | str, field: str) -> None:
    """Write one file; `field` is the path below linux.resources."""
    path = f"linux.resources.{field}"
    directory = cgroup.directory(controller)
    if directory is None:
        raise RuntimeFailure(f"this host has no {controller} cgroup controller", path)
    try:
        write(directory, name, str(value))
    except FileNotFoundError as error:
        if name == "memory.memsw.limit_in_bytes":
            raise RuntimeFailure("this kernel does not account swap", path) from error
        raise RuntimeFailure(f"this kernel has no {name}", path) from error
    except OSError as error:
        message = f'the kernel refused "{value}" for {name}: {error.strerror}'
        raise RuntimeFailure(message, path) from error


def write_all(cgroup: Cgroup, *files: tuple[str, str, int | str | None, str]) -> None:
    """(controller, file, value, field) in order; None is not set."""
    for controller, name, value, field in files:
        if value is not None:
            set_(cgroup, controller, name, value, field)
