"""Secret values. Their `repr` never shows them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Secret:
    """As applied, in memory only: key to value. Its version changes with its content."""

    namespace: str
    name: str
    values: Mapping[str, bytes] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedSecret:
    """As stored: each value encrypted with the key-encryption key, which is not in etcd."""

    namespace: str
    name: str
    version: int
    sealed: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    updated_at: float = 0.0
    updated_by: str = ""
