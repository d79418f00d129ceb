"""Quotas."""

from __future__ import annotations

from bayplan.model.quota import QuotaSpec
from bayplan.model.resources import Resources
from bayplan.model.validate.names import LABEL_KEY, check_name
from bayplan.model.validate.problems import Problem

DEVICES_MAX = 100


def validate_quota(quota: QuotaSpec) -> list[Problem]:
    """Everything that is wrong with a quota."""
    problems = [*check_name(quota.name, ("name",)), *check_name(quota.namespace, ("namespace",))]
    limits = quota.limits
    if limits == Resources() and not quota.tasks and not quota.devices:
        problems.append(
            Problem(("limits",), "limits nothing; write e.g. limits: {memory: 16GiB, tasks: 50}")
        )
    amounts = {
        "cpu": limits.cpu_millis,
        "memory": limits.memory_bytes,
        "pids": limits.pids,
        "disk": limits.disk_bytes,
        "tasks": quota.tasks,
    }
    problems += [
        Problem(("limits", name), "must not be less than 0")
        for name, amount in amounts.items()
        if amount < 0
    ]
    for name, millis in quota.devices.items():
        path = ("limits", "devices", name)
        if LABEL_KEY.fullmatch(name) is None:
            problems.append(Problem(path, f'"{name[:80]}" is not a name; write e.g. gpu'))
        if millis <= 0:
            problems.append(Problem(path, "must be more than 0; leave it out for no limit"))
    if len(quota.devices) > DEVICES_MAX:
        problems.append(
            Problem(("limits", "devices"), f"names more than {DEVICES_MAX} devices; name fewer")
        )
    return problems
