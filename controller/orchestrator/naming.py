"""Ids are derived, never drawn, so that a repeated decision is the same decision."""

from __future__ import annotations

import hashlib

from bayplan.model.task import Task
from controller.tables import Key

UID_BYTES = 10


def task_uid(service_uid: str, slot: int, attempt: int) -> str:
    """20 hexadecimal digits that name everything of a task on its host."""
    text = f"{service_uid}/{slot}/{attempt}".encode()
    return hashlib.blake2b(text, digest_size=UID_BYTES).hexdigest()


def version_key(namespace: str, service: str, generation: int) -> Key:
    return namespace, f"{service}.{generation}"


def slot_key(namespace: str, service: str, slot: int) -> Key:
    return namespace, f"{service}.{slot}"


def task_key(task: Task) -> Key:
    return task.namespace, task.name
