"""What a node must run, complete enough to run it without a controller."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from bayplan.model.service import TaskTemplate
from bayplan.model.task import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """`secrets` maps `name/key` to the value, only for what the template refers to. `standby`: it
    runs and is checked, and gets no traffic."""

    task: Task
    template: TaskTemplate
    secrets: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    standby: bool = False
