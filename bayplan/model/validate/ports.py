"""Ports: what they are called, what publishes them, what the network allows."""

from __future__ import annotations

from collections.abc import Iterator

from bayplan.model.service import NetworkMode, Port, TaskTemplate
from bayplan.model.validate.names import check_name
from bayplan.model.validate.problems import Path, Problem

PORTS_MAX = 100


def check_ports(template: TaskTemplate) -> Iterator[Problem]:
    """Each by itself, and none twice."""
    if len(template.ports) > PORTS_MAX:
        yield Problem(("ports",), f"has {len(template.ports)} ports; at most {PORTS_MAX}")
    inside: dict[tuple[int, str], str] = {}
    outside: dict[tuple[int, str], str] = {}
    names: set[str] = set()
    for port in template.ports:
        path: Path = ("ports", port.name)
        yield from check_name(port.name, path)
        if port.name in names:
            yield Problem(path, "stands twice; leave one out")
        names.add(port.name)
        if not 1 <= port.container <= 65535:
            yield Problem((*path, "container"), f"{port.container} is not a port; write 1 to 65535")
        key = (port.container, str(port.protocol))
        if key in inside:
            yield Problem(
                (*path, "container"),
                f'{port.container}/{port.protocol} is port "{inside[key]}" already; leave one out',
            )
        inside.setdefault(key, port.name)
        yield from _publish(port, path, outside)
        yield from _port_and_network(port, path, template.network)


def _publish(port: Port, path: Path, outside: dict[tuple[int, str], str]) -> Iterator[Problem]:
    path = (*path, "publish")
    if not 0 <= port.publish <= 65535:
        yield Problem(path, f"{port.publish} is not a port; write 1 to 65535, or auto")
    if not port.publish:
        return
    if port.publish_auto:
        yield Problem(path, f"is auto and {port.publish} at once; leave one out")
    key = (port.publish, str(port.protocol))
    if key in outside:
        yield Problem(
            path,
            f'{port.publish}/{port.protocol} is published by port "{outside[key]}" already; '
            "write another one, or auto",
        )
    outside.setdefault(key, port.name)


def _port_and_network(port: Port, path: Path, network: NetworkMode) -> Iterator[Problem]:
    published = bool(port.publish or port.publish_auto)
    if network is NetworkMode.NONE and published:
        yield Problem((*path, "publish"), "cannot be published with network: none; leave it out")
    if network is NetworkMode.HOST and port.publish_auto:
        yield Problem(
            (*path, "publish"),
            f"cannot be auto with network: host; the process itself listens on {port.container}",
        )
    if network is NetworkMode.HOST and port.publish and port.publish != port.container:
        yield Problem(
            (*path, "publish"),
            f"{port.publish} cannot differ from the container's port with network: host; "
            f"write {port.container}",
        )
