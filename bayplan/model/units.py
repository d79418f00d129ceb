"""Amounts as people read them."""

from __future__ import annotations

_BINARY = (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10))
_SPANS = (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))


def format_bytes(amount: int) -> str:
    """`536870912` -> `512MiB`; at most one decimal."""
    for unit, size in _BINARY:
        if abs(amount) >= size:
            return f"{amount / size:.1f}".removesuffix(".0") + unit
    return f"{amount}B"


def format_cpu(millis: int) -> str:
    """`500` -> `0.5`, in cores; exact."""
    return f"{millis / 1000:.3f}".rstrip("0").rstrip(".")


def format_span(seconds: float) -> str:
    """The two leading units: `192.4` -> `3m12s`, `86400` -> `1d`."""
    rest = int(max(seconds, 0))
    parts: list[str] = []
    for unit, size in _SPANS:
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count}{unit}")
        elif parts:
            break
    return "".join(parts[:2]) or "0s"
