"""The operators' protocol: which versions of it a program speaks, said with every call.

Calls and fields are only ever added, so the number grows where an older side would misunderstand a
newer one. A caller says the version it speaks in the metadata of each call; one that says nothing
speaks the first. Agents say theirs in the first message of a session.
"""

from __future__ import annotations

from typing import Final

from bayplan.model.errors import Incompatible

OPERATORS: Final = 1
"""Highest version this program speaks, which is what `bay` says."""
OLDEST: Final = 1
"""Lowest version a controller still understands."""
KEY: Final = "bayplan-protocol"


def metadata() -> tuple[tuple[str, str], ...]:
    """What a caller sends along."""
    return ((KEY, str(OPERATORS)),)


def check(said: str | None, version: str) -> None:
    """Refuse who cannot be understood: `said` is the caller's version as it came, None for none;
    `version` this controller's own. Raises Incompatible, with the side to upgrade."""
    spoken = 1 if said is None else int(said) if said.isdecimal() and len(said) < 10 else 0
    here = str(OPERATORS) if OLDEST == OPERATORS else f"{OLDEST} to {OPERATORS}"
    sentence = f"bay speaks protocol {spoken}, and the controller (version {version}) {here}"
    if spoken < OLDEST:
        raise Incompatible(sentence, hint="upgrade bay")
    if spoken > OPERATORS:
        raise Incompatible(sentence, hint="upgrade the controllers, or take their bay")
