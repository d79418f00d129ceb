"""Failures that are values of the domain, each with the exit code `bay` ends with."""

from __future__ import annotations


class BayplanError(Exception):
    """One clear sentence for the person at the other end, and what to do where that is known.

    `code` is stable and machine-readable; `exit_code` is what `bay` exits with.
    """

    code = "internal"
    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message


class InvalidSpec(BayplanError):
    """What the operator wrote does not mean anything."""

    code = "invalid"
    exit_code = 2


class NotFound(BayplanError):
    code = "not_found"
    exit_code = 3


class PermissionDenied(BayplanError):
    code = "permission_denied"
    exit_code = 4


class NodeRemoved(PermissionDenied):
    """The node is none of the cluster's any more. Said by the leader alone, who knows all nodes:
    its agent ends what it runs."""

    code = "node_removed"


class Conflict(BayplanError):
    """The world changed between the decision and the write, or the name is taken."""

    code = "conflict"
    exit_code = 5


class Unavailable(BayplanError):
    """A part that is needed does not answer: controller, leader, etcd, node, registry."""

    code = "unavailable"
    exit_code = 6


class NotLeader(Unavailable):
    """The controller asked does not lead. `leader` is the address of the one that does; empty:
    nobody does at the moment."""

    code = "not_leader"

    def __init__(self, message: str, *, leader: str = "", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.leader = leader


class DeadlineExceeded(BayplanError):
    code = "deadline_exceeded"
    exit_code = 7


class Failed(BayplanError):
    """The request was understood and carried out, and its outcome is a failure (a rollout)."""

    code = "failed"
    exit_code = 8


class PlanChanged(BayplanError):
    """What was planned would have other consequences now."""

    code = "plan_changed"
    exit_code = 9


class Incompatible(BayplanError):
    """Two sides whose versions do not understand each other; the hint says which to upgrade."""

    code = "incompatible"
    exit_code = 11


class IllegalTransition(BayplanError):
    """A task state would move backwards: a bug, or an old message."""

    code = "illegal_transition"
