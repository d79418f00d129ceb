"""The times of fenced tasks, of which a slot never has two that run.

```
  last heartbeat     the host stops it     it is dead        another may be placed
  that was granted   (stop signal)         (the shim kills)
        ├──────────────────┼─────────────────┤·············────┤
        0          lease - reserve         lease        lost + lease * (1 + drift) + margin
```

The host counts from when it *sent* the heartbeat, by CLOCK_BOOTTIME. The controller counts from
when it declared the node lost, since when it has granted nothing, or where that is later from when
it began to lead, before which another leader may have. Only lengths of time are compared, so that
clocks need not agree; they may run at different speeds within `DRIFT_MAX`.
"""

from __future__ import annotations

from bayplan.model.service import Fencing, StopPolicy

DRIFT_MAX = 0.01
"""By which share two hosts' clocks may differ in speed. Adjusted clocks differ by 0.0005 at most
(adjtimex(2)), free ones by some 0.0001."""
MARGIN_S = 2.0
"""For what comes between the deadline and the last process's end."""
STOP_RESERVE_S = 1.0
"""What stopping takes beside the grace that the spec gives: out of the balancing rules first."""
LEASE_MIN_S = 5.0
LEASE_MAX_S = 3600.0


def hold_s(fencing: Fencing) -> float:
    """How long the controller waits before it replaces the task of a lost node."""
    return fencing.lease_s * (1 + DRIFT_MAX) + MARGIN_S


def reserve_s(fencing: Fencing, stop: StopPolicy) -> float:
    """How long before the end of its lease a task is told to stop, and none is started."""
    return min(stop.grace_s + STOP_RESERVE_S, fencing.lease_s / 2)
