"""The domain's dataclasses and the messages that carry them stay the same thing."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
from typing import Any

import pytest

import bayplan.model
from bayplan.model.service import (
    HealthCheck,
    HttpCheck,
    OnFailure,
    Service,
    ServiceSpec,
    TaskTemplate,
    UpdatePolicy,
)
from bayplan.model.task import TaskState, TaskStatus
from bayplan.wire import convert
from bayplan.wire._pb.bayplan.v1 import types_pb2


def domain_classes() -> list[type[Any]]:
    modules = [
        importlib.import_module(f"bayplan.model.{m.name}")
        for m in pkgutil.iter_modules(bayplan.model.__path__)
    ]
    return [
        c
        for m in modules
        for c in vars(m).values()
        if inspect.isclass(c) and dataclasses.is_dataclass(c) and hasattr(types_pb2, c.__name__)
    ]


@pytest.mark.parametrize("cls", domain_classes(), ids=lambda c: c.__name__)
def test_fields_are_the_same(cls: type[Any]) -> None:
    """A field added on one side only would be lost on the wire."""
    expected = [f.name for f in dataclasses.fields(cls)]
    actual = list(convert.message_class(cls).DESCRIPTOR.fields_by_name)
    assert sorted(expected) == sorted(actual)


def a_service() -> Service:
    template = TaskTemplate(
        image="web:1",
        command=("httpd", "-f"),
        health=HealthCheck(http=HttpCheck(port="http", path="/healthz")),
    )
    spec = ServiceSpec(
        name="web",
        template=template,
        labels={"team": "shop"},
        update=UpdatePolicy(on_failure=OnFailure.PAUSE),
    )
    return Service(
        namespace="default",
        name="web",
        uid="u1",
        generation=3,
        spec=spec,
        template_hash="h",
        replicas=2,
    )


def test_round_trip_keeps_everything() -> None:
    """Presence, maps, tuples, enumerations and nesting survive serialization."""
    service = a_service()
    message = convert.message_class(Service).FromString(convert.to_pb(service).SerializeToString())
    assert service == convert.from_pb(Service, message)


def test_optional_zero_is_not_absent() -> None:
    """An exit code of 0 is not "no exit code yet"."""
    status = TaskStatus(
        namespace="d", task="web.1.1", uid="u", node="h1", state=TaskState.COMPLETE, exit_code=0
    )
    assert convert.from_pb(TaskStatus, convert.to_pb(status)).exit_code == 0
    running = dataclasses.replace(status, exit_code=None)
    assert convert.from_pb(TaskStatus, convert.to_pb(running)).exit_code is None


def test_a_field_older_writers_did_not_know_takes_its_default() -> None:
    """A message without `update` means the default policy, not an error."""
    message = convert.to_pb(a_service())
    message.spec.ClearField("update")
    assert convert.from_pb(Service, message).spec.update == UpdatePolicy()


def test_a_value_newer_writers_invented_is_named() -> None:
    """An unknown enumeration value is never taken for another one."""
    message = convert.to_pb(a_service())
    message.spec.update.on_failure = 99
    with pytest.raises(convert.UnknownValue, match=r"UpdatePolicy.on_failure.*99"):
        convert.from_pb(Service, message)
