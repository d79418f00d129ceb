"""Which copy of an image to take, where several registries hold the cluster's images.

Each controller has a registry of its own. An import puts an image into most of them, so whoever
has heard from most of them has heard of the newest. A registry that was away when a tag was moved
still has the old one: of several answers the one tagged last is taken.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from bayplan.oci.manifest import Descriptor
from bayplan.oci.reference import Reference
from bayplan.oci.registry import RegistryClient, RegistryError

STRAGGLERS_S = 3.0
"""How long the others are waited for once one registry has answered."""


@dataclass(frozen=True, slots=True)
class Copy:
    """An image at one registry, its manifest or index read."""

    client: RegistryClient
    tagged_at: float
    descriptor: Descriptor
    data: bytes


async def find(clients: Sequence[RegistryClient], reference: Reference) -> list[Copy]:
    """The copies, newest first; of equal ones the first registry's. Raises RegistryError where
    there is none: retryable, unless all registries said so."""
    asking = [asyncio.create_task(_ask(client, reference)) for client in clients]
    pending = set(asking)
    deadline_s: float | None = None
    try:
        while pending and not _settled(asking):
            done, pending = await asyncio.wait(
                pending, timeout=deadline_s, return_when=asyncio.FIRST_COMPLETED
            )
            if not done:
                break
            if any(not task.exception() for task in done):
                deadline_s = STRAGGLERS_S
    finally:
        for task in pending:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
    copies = [task.result() for task in asking if not task.cancelled() and not task.exception()]
    if copies:
        return sorted(copies, key=lambda copy: -copy.tagged_at)
    failures = [error for task in asking if isinstance(error := task.exception(), RegistryError)]
    for task in asking:
        if not isinstance(task.exception(), RegistryError):
            task.result()
    raise _together(failures)


async def _ask(client: RegistryClient, reference: Reference) -> Copy:
    return Copy(client, *await client.tagged(reference.name, reference.version))


def _settled(asking: Sequence[asyncio.Task[Copy]]) -> bool:
    """True once one has it and most have said whether they have it."""
    done = [task for task in asking if task.done()]
    found = sum(not task.exception() for task in done)
    missing = sum(isinstance(e := task.exception(), RegistryError) and e.missing for task in done)
    return bool(found) and 2 * (found + missing) > len(asking)


def _together(failures: Sequence[RegistryError]) -> RegistryError:
    if len(failures) == 1:
        return failures[0]
    return RegistryError(
        "; ".join(dict.fromkeys(str(failure) for failure in failures)),
        retryable=any(failure.retryable for failure in failures),
        missing=all(failure.missing for failure in failures),
    )
