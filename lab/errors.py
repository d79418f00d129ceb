"""What can go wrong with a lab, each with the exit code `bay lab` ends with."""

from __future__ import annotations

from bayplan.model.errors import BayplanError, NotFound, PermissionDenied


class LabError(BayplanError):
    """A part of the lab did not do what it should; the message says which and shows its log."""

    code = "lab"


class NoSuchHost(NotFound):
    """There is no host of that name in the lab."""


class NoLab(NotFound):
    """There is no lab in that directory."""


class NeedsRoot(PermissionDenied):
    """Network namespaces, mounts and cgroups are root's."""
