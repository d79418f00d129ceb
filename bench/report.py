"""The one line every benchmark ends with."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping


def machine() -> dict[str, object]:
    """What the figures were measured on."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpus": os.cpu_count(),
        "memory_gib": round(memory / (1 << 30), 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "arch": platform.machine(),
    }


def report(bench: str, metrics: Mapping[str, float]) -> None:
    """Print the result as one JSON object on the last line."""
    rounded = {name: float(f"{value:.4g}") for name, value in metrics.items()}
    print(json.dumps({"bench": bench, "metrics": rounded, "machine": machine()}))
