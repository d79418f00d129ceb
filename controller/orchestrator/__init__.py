"""Which tasks should exist: replicas, rollout, jobs, crons, daemons, history. Pure."""

from controller.orchestrator.cron import cron_situation
from controller.orchestrator.cron import decide as decide_cron
from controller.orchestrator.daemon import pin
from controller.orchestrator.decision import Decision, Note
from controller.orchestrator.history import reap, reap_events
from controller.orchestrator.naming import task_uid
from controller.orchestrator.restart import refusals
from controller.orchestrator.service import decide
from controller.orchestrator.situation import NodeFacts, Observed, Situation, situation

__all__ = [
    "Decision",
    "NodeFacts",
    "Note",
    "Observed",
    "Situation",
    "cron_situation",
    "decide",
    "decide_cron",
    "pin",
    "reap",
    "reap_events",
    "refusals",
    "situation",
    "task_uid",
]
