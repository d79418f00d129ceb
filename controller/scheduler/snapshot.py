"""Tables -> ClusterView: what is occupied, node by node."""

from __future__ import annotations

from collections import defaultdict

from bayplan.model.node import Node, NodeState, NodeStatus
from bayplan.model.resources import Resources
from bayplan.model.service import NetworkMode, TaskTemplate
from bayplan.model.task import FINAL, DesiredState, Task
from controller.scheduler.base import ClusterView, HostPort, NodeView
from controller.tables import Key, Tables


def version_key(task: Task) -> Key:
    """Where the version a task was made from is stored."""
    return task.namespace, f"{task.service}.{task.generation}"


def occupies(task: Task, tables: Tables) -> bool:
    """True while a task holds resources of its node: until its end has been observed."""
    if not task.node:
        return False
    status = tables.status.get((task.namespace, task.name))
    if status is not None and status.value.uid == task.uid:
        return status.value.state not in FINAL
    return task.desired in (DesiredState.READY, DesiredState.RUNNING)


def _blocked(node: Node, status: NodeStatus | None) -> str:
    if status is None or status.state is NodeState.UNKNOWN:
        return "never heard from"
    if status.state is not NodeState.READY:
        return f"{status.state}"
    if node.draining:
        return "draining"
    if node.cordoned:
        return "cordoned"
    return ""


def host_ports(template: TaskTemplate) -> tuple[HostPort, ...]:
    """Ports a task of `network: host` binds on its host itself."""
    if template.network is not NetworkMode.HOST:
        return ()
    return tuple((p.container, p.protocol) for p in template.ports)


def cluster_view(tables: Tables) -> ClusterView:
    """The view placement decides from. Linear in nodes and tasks."""
    names = sorted(stored.value.name for stored in tables.nodes.values())
    index = {name: i for i, name in enumerate(names)}
    cpu = [0] * len(names)
    memory = [0] * len(names)
    pids = [0] * len(names)
    counts: dict[str, dict[int, int]] = defaultdict(dict)
    owners: dict[HostPort, dict[int, str]] = defaultdict(dict)
    exclusive: dict[HostPort, set[int]] = defaultdict(set)
    auto: dict[tuple[str, str], int] = {}
    for stored in tables.tasks.values():
        task = stored.value
        if not occupies(task, tables):
            continue
        at = index.get(task.node)
        version = tables.versions.get(version_key(task))
        if at is None or version is None:
            continue
        template = version.value.spec.template
        cpu[at] += template.resources.cpu_millis
        memory[at] += template.resources.memory_bytes
        pids[at] += template.resources.pids
        for port in task.ports:
            owners[port.host, port.protocol][at] = task.service_uid
            auto[task.service_uid, port.name] = port.host
        for host_port in host_ports(template):
            owners[host_port][at] = task.service_uid
            exclusive[host_port].add(at)
        if task.desired in (DesiredState.READY, DesiredState.RUNNING):
            per_node = counts[task.service_uid]
            per_node[at] = per_node.get(at, 0) + 1
    nodes = []
    for i, name in enumerate(names):
        node = tables.nodes["", name].value
        found = tables.nodestatus.get(("", name))
        report = found.value.report if found else NodeStatus(name=name).report
        used = Resources(cpu_millis=cpu[i], memory_bytes=memory[i], pids=pids[i])
        nodes.append(
            NodeView(
                name=name,
                labels=node.labels,
                attributes=report.attributes,
                allocatable=report.allocatable,
                free=report.allocatable - used,
                blocked=_blocked(node, found.value if found else None),
            )
        )
    return ClusterView(
        nodes=tuple(nodes),
        counts=counts,
        port_owners=owners,
        exclusive_ports={k: frozenset(v) for k, v in exclusive.items()},
        auto_ports=auto,
        claimed_ports=_claimed(tables),
    )


def _claimed(tables: Tables) -> frozenset[HostPort]:
    return frozenset(
        (port.publish, port.protocol)
        for stored in tables.services.values()
        for port in stored.value.spec.template.ports
        if port.publish
    )
