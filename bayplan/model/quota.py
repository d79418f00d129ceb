"""What the tasks of a namespace may hold together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from bayplan.model.resources import Resources


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaSpec:
    """As applied. An amount of 0 in `limits`, `tasks` 0, and a device that is not named are not
    limited. `devices`: name -> thousandths of whole ones."""

    namespace: str = "default"
    name: str
    limits: Resources = field(default_factory=Resources)
    tasks: int = 0
    devices: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """As stored; several of one namespace all hold. `source`: the YAML as typed."""

    namespace: str
    name: str
    spec: QuotaSpec
    version: int = 1
    source: str = ""
    updated_at: float = 0.0
    updated_by: str = ""
