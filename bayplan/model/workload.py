"""What makes a workload a job, a cron or a daemon, and what became of its runs.

All kinds share one record and one task template (`bayplan.model.service`); what differs stands
here. Units stand last in the names, as there.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class WorkloadKind(StrEnum):
    """The `kind:` of a document. SERVICE: replicas that run on. JOB: indexes that run to their
    end. CRON: makes a job whenever its schedule says so. DAEMON: one task on each node."""

    SERVICE = "Service"
    JOB = "Job"
    CRON = "Cron"
    DAEMON = "Daemon"


class Overlap(StrEnum):
    """What a cron does when its time has come and its last job is still at work: another one
    beside it, none this time, or one in its place once it has ended."""

    ALLOW = "allow"
    FORBID = "forbid"
    REPLACE = "replace"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobPolicy:
    """`completions` indexes from 0, at most `parallelism` of them at once. An index whose task
    fails is tried again up to `retries` times, after a pause that doubles from `retry_delay_s` up
    to `retry_max_delay_s`; when one has failed for good, so has the job. `deadline_s` 0: none.
    `ttl_s` after its end the job is deleted; None: it is kept."""

    completions: int = 1
    parallelism: int = 1
    retries: int = 3
    retry_delay_s: float = 10.0
    retry_max_delay_s: float = 360.0
    deadline_s: float = 0.0
    ttl_s: float | None = None
    suspend: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CronPolicy:
    """`schedule` has five fields, read in `time_zone` (an IANA name). A window that could not be
    used within `start_deadline_s` (0: however late) is missed. `keep_complete` and `keep_failed`
    ended jobs are kept."""

    schedule: str
    time_zone: str = "UTC"
    overlap: Overlap = Overlap.ALLOW
    start_deadline_s: float = 0.0
    keep_complete: int = 3
    keep_failed: int = 1
    suspend: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotResult:
    """How an index of a job ended, kept when its task is gone. `generation` is that of the run
    it belongs to; `exit_code` None: no process ended (rejected)."""

    generation: int
    attempt: int
    complete: bool
    exit_code: int | None = None
    reason: str = ""
    message: str = ""
    node: str = ""
    started_at: float = 0.0
    finished_at: float = 0.0


class RunState(StrEnum):
    """RUNNING is the only one that is not final."""

    RUNNING = "running"
    COMPLETE = "complete"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run of a job: `generation` is the version that began it. `started_at` 0: suspended
    (the deadline counts anew when it goes on). `index` and `exit_code` say which index made it
    fail, and with what; -1 and None: none did."""

    namespace: str
    service: str
    generation: int
    state: RunState
    reason: str = ""
    index: int = -1
    exit_code: int | None = None
    started_at: float = 0.0
    finished_at: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CronState:
    """How far a cron has got: every time up to `last_at` is dealt with, for this `schedule` and
    `time_zone`. `last_job` is the one it made last."""

    namespace: str
    service: str
    schedule: str
    time_zone: str
    last_at: float
    last_job: str = ""
    suspended: bool = False
