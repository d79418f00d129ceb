"""Names of signals, as specs and images write them."""

from __future__ import annotations

import re
import signal

_REAL_TIME = re.compile(r"RTMIN(?:\+([0-9]{1,2}))?|RTMAX(?:-([0-9]{1,2}))?")


def number(name: str) -> int | None:
    """Of `SIGTERM`, `TERM`, `15`, `SIGRTMIN+3` or `SIGRTMAX-2`; None where it is none of these.
    SIGRTMIN is the C library's (signal(7)): what the program in the container calls so."""
    text = name.strip().upper()
    if text.isdecimal():
        return int(text) if 0 < int(text) <= signal.SIGRTMAX else None
    word = text.removeprefix("SIG")
    if match := _REAL_TIME.fullmatch(word):
        plus, minus = int(match[1] or 0), int(match[2] or 0)
        found = signal.SIGRTMAX - minus if word.startswith("RTMAX") else signal.SIGRTMIN + plus
        return int(found) if signal.SIGRTMIN <= found <= signal.SIGRTMAX else None
    known = getattr(signal, f"SIG{word}", None)
    return int(known) if isinstance(known, signal.Signals) else None
