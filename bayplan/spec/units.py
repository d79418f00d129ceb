"""Amounts with their units, as people write them, to the integers and seconds of the model."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation

SIZE_UNITS = {
    "B": 1,
    "kB": 10**3,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
}
DURATION_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}

BYTES_MAX = 2**60
SECONDS_MAX = 365 * 86400.0
CPU_MILLIS_MAX = 10**6
TOTAL_CPU_MILLIS_MAX = 10**9
"""Of many hosts together."""

_NUMBER = r"[0-9]{1,15}(?:\.[0-9]{1,9})?"
SIZE_PATTERN = rf"{_NUMBER} ?({'|'.join(SIZE_UNITS)})"
DURATION_PATTERN = rf"({_NUMBER}(ms|s|m|h|d))+"
CPU_PATTERN = rf"{_NUMBER}|[0-9]{{1,9}}m"

_SIZE = re.compile(rf"({_NUMBER}) ?([A-Za-z]+)")
_DURATION_PART = re.compile(rf"({_NUMBER})(ms|s|m|h|d)")
_DURATION = re.compile(DURATION_PATTERN)
_PLAIN_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?")
_CPU = re.compile(CPU_PATTERN)


class NotAnAmount(ValueError):
    """The text is no amount of this kind; the message says what to write instead."""


def size_bytes(text: str) -> int:
    """`512MiB`, `1.5GiB`, `10GB` to bytes. Raises NotAnAmount."""
    match = _SIZE.fullmatch(text)
    if match is None or match[2] not in SIZE_UNITS:
        if _PLAIN_NUMBER.fullmatch(text) and not text.startswith("-"):
            raise NotAnAmount(f'"{text}" has no unit; write e.g. {text}MiB')
        raise NotAnAmount(f'"{text}" is not a size; write e.g. 512MiB')
    amount = int(Decimal(match[1]) * SIZE_UNITS[match[2]])
    if amount > BYTES_MAX:
        raise NotAnAmount(f'"{text}" is larger than any host; write e.g. 512MiB')
    return amount


def duration_s(text: str) -> float:
    """`30s`, `1m30s`, `500ms`, `2h` to seconds. Raises NotAnAmount."""
    if _DURATION.fullmatch(text) is None:
        if _PLAIN_NUMBER.fullmatch(text) and not text.startswith("-"):
            raise NotAnAmount(f'"{text}" has no unit; write e.g. {text}s')
        raise NotAnAmount(f'"{text}" is not a duration; write e.g. 30s')
    seconds = sum(float(n) * DURATION_UNITS[unit] for n, unit in _DURATION_PART.findall(text))
    if seconds > SECONDS_MAX:
        raise NotAnAmount(f'"{text}" is more than a year; write e.g. 30s')
    return round(seconds, 6)


def duration_text(seconds: float) -> str:
    """As one would type it: `2m`, `1m30s`, `500ms`, `0s`. What `duration_s` reads back, to the
    millisecond."""
    left = round(seconds * 1000)
    text = ""
    for unit in ("d", "h", "m", "s", "ms"):
        size = round(DURATION_UNITS[unit] * 1000)
        if left >= size:
            text += f"{left // size}{unit}"
            left %= size
    return text or "0s"


def cpu_millis(text: str, most: int = CPU_MILLIS_MAX) -> int:
    """Cores (`0.5`, `2`) or thousandths (`500m`) to thousandths. Raises NotAnAmount."""
    if _CPU.fullmatch(text) is None:
        raise NotAnAmount(f'"{text}" is not an amount of cpu; write e.g. 0.5 or 500m')
    try:
        millis = Decimal(text[:-1]) if text.endswith("m") else Decimal(text) * 1000
    except InvalidOperation:  # the pattern allows nothing Decimal does not
        raise NotAnAmount(f'"{text}" is not an amount of cpu; write e.g. 0.5 or 500m') from None
    if millis != int(millis):
        raise NotAnAmount(f'"{text}" is finer than a thousandth of a core; write e.g. 0.5 or 500m')
    if millis > most:
        raise NotAnAmount(f'"{text}" is more than any host has; write e.g. 0.5 or 500m')
    return int(millis)


def total_cpu_millis(text: str) -> int:
    """As `cpu_millis`, of many hosts together."""
    return cpu_millis(text, TOTAL_CPU_MILLIS_MAX)
