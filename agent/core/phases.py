"""Where a task of this host is in its life; agent/core/machine.py draws the way."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from bayplan.model.task import TaskState


class Phase(Enum):
    """Where a task is; `..._WAIT` is the pause before the same command is tried again."""

    NEW = "new"
    PULL = "pull"
    PULL_WAIT = "pull_wait"
    VOLUMES = "volumes"
    VOLUMES_WAIT = "volumes_wait"
    LEASE_WAIT = "lease_wait"
    HELD = "held"
    CREATE = "create"
    ATTACH = "attach"
    RUN = "run"
    UP = "up"
    WITHDRAW = "withdraw"
    DRAIN = "drain"
    TERM = "term"
    KILL = "kill"
    DELETE = "delete"
    DELETE_WAIT = "delete_wait"
    UNPUBLISH = "unpublish"
    DETACH = "detach"
    DETACH_WAIT = "detach_wait"
    BACKOFF = "backoff"
    DONE = "done"
    REMOVE = "remove"
    REMOVE_WAIT = "remove_wait"
    GONE = "gone"


# A container may run in these, so that an exit means something.
ALIVE = frozenset(
    {
        Phase.CREATE,
        Phase.ATTACH,
        Phase.RUN,
        Phase.UP,
        Phase.WITHDRAW,
        Phase.DRAIN,
        Phase.TERM,
        Phase.KILL,
    }
)
# There may be processes of it: those of a container go with its deletion, not with its init.
HOLDING = ALIVE | {Phase.DELETE, Phase.DELETE_WAIT}
# The decision what follows has been made; the container is only being ended.
GOING_DOWN = frozenset({Phase.WITHDRAW, Phase.DRAIN, Phase.TERM, Phase.KILL})
CLEANING = frozenset(
    {
        Phase.DELETE,
        Phase.DELETE_WAIT,
        Phase.UNPUBLISH,
        Phase.DETACH,
        Phase.DETACH_WAIT,
    }
)
REMOVING = frozenset({Phase.REMOVE, Phase.REMOVE_WAIT, Phase.GONE})


@dataclass(frozen=True, slots=True)
class Outcome:
    """The final state a task is on its way to, and why."""

    state: TaskState
    reason: str
    message: str = ""
