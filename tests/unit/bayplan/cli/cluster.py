"""A Control service in this process, on a real gRPC port with mutual TLS, that answers what a test
wants: the far end of the command line's tests."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc

from bayplan import pki
from bayplan.client import CODE_KEY, HINT_KEY, SERVER_NAME
from bayplan.contexts import Context, load_config, save_config, store_credentials
from bayplan.model.service import (
    HealthCheck,
    HttpCheck,
    Port,
    Rollout,
    RolloutState,
    Service,
    ServiceSpec,
    TaskTemplate,
)
from bayplan.model.task import Health, Task, TaskState, TaskStatus
from bayplan.wire._pb.bayplan.v1 import control_pb2 as control
from bayplan.wire._pb.bayplan.v1 import dispatcher_pb2 as dispatcher
from bayplan.wire._pb.bayplan.v1 import types_pb2 as types
from bayplan.wire._pb.bayplan.v1.control_pb2_grpc import (
    ControlServicer,
    add_ControlServicer_to_server,
)
from bayplan.wire._pb.bayplan.v1.planning_pb2_grpc import (
    PlanningServicer,
    add_PlanningServicer_to_server,
)
from bayplan.wire.acceptance import ACCEPTED
from bayplan.wire.convert import enum_name, to_pb

NOW = 1_800_000_000.0


class Fake(ControlServicer, PlanningServicer):
    """`views` are what WatchService sends, one after another; `fails` names calls that end with
    a code, a message and a hint; `asked` holds requests by call,
    `applied` all of those to apply."""

    def __init__(self) -> None:
        self.address = ""
        self.leader = ""
        self.views: list[Any] = []
        self.changes: list[Any] = []
        self.fails: dict[str, tuple[str, str, str]] = {}
        self.asked: dict[str, Any] = {}
        self.applied: list[Any] = []
        self.lines: list[Any] = []
        self.frozen = ""
        self.stats: list[Any] = []
        self.node: Any = None
        self.secrets: list[Any] = []
        self.quotas: list[Any] = []
        self.plan: Any = None
        self.explanation: Any = None
        self.supposed: Any = None
        self.headroom: Any = None

    def _ask(self, call: str, request: Any, context: Any) -> None:
        self.asked[call] = request
        if call in self.fails:
            code, message, hint = self.fails[call]
            context.set_trailing_metadata(((CODE_KEY, code), (HINT_KEY, hint.encode())))
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, message)

    def GetVersion(self, request: Any, context: Any) -> Any:
        self._ask("GetVersion", request, context)
        caller = types.Identity(name="ada", role=types.ROLE_OPERATOR)
        return control.GetVersionResponse(
            version="1",
            leader_address=self.leader or self.address,
            nodes_ready=2,
            nodes_total=3,
            caller=caller,
            frozen_reason=self.frozen,
            address=self.address,
            leads=not self.leader,
        )

    def ListServices(self, request: Any, context: Any) -> Any:
        self._ask("ListServices", request, context)
        return control.ListServicesResponse(services=self.views[-1:])

    def ListTasks(self, request: Any, context: Any) -> Any:
        self._ask("ListTasks", request, context)
        return control.ListTasksResponse(tasks=self.views[-1].tasks)

    def ListNodes(self, request: Any, context: Any) -> Any:
        self._ask("ListNodes", request, context)
        return control.ListNodesResponse(nodes=[self.node] if self.node else [])

    def GetService(self, request: Any, context: Any) -> Any:
        self._ask("GetService", request, context)
        return self.views[-1]

    def WatchService(self, request: Any, context: Any) -> Iterator[Any]:
        self._ask("WatchService", request, context)
        for view in self.views:
            yield view
            time.sleep(0.01)
        while context.is_active():
            time.sleep(0.01)

    def Apply(self, request: Any, context: Any) -> Any:
        self._ask("Apply", request, context)
        self.applied.append(request)
        return control.ApplyResponse(changes=self.changes, revision=7)

    def Top(self, request: Any, context: Any) -> Iterator[Any]:
        self._ask("Top", request, context)
        yield from self.stats
        while context.is_active():
            time.sleep(0.01)

    def SignalTask(self, request: Any, context: Any) -> Any:
        self._ask("SignalTask", request, context)
        return control.ChangeResponse(changes=self.changes, revision=7)

    def PauseTask(self, request: Any, context: Any) -> Any:
        self._ask("PauseTask", request, context)
        return control.ChangeResponse(changes=self.changes, revision=7)

    def Plan(self, request: Any, context: Any) -> Any:
        self._ask("Plan", request, context)
        return self.plan

    def WhatIf(self, request: Any, context: Any) -> Any:
        self._ask("WhatIf", request, context)
        return self.supposed

    def Headroom(self, request: Any, context: Any) -> Any:
        self._ask("Headroom", request, context)
        return self.headroom

    def Explain(self, request: Any, context: Any) -> Any:
        self._ask("Explain", request, context)
        return self.explanation

    def Scale(self, request: Any, context: Any) -> Any:
        self._ask("Scale", request, context)
        return control.ChangeResponse(changes=self.changes, revision=7)

    def SteerRollout(self, request: Any, context: Any) -> Any:
        self._ask("SteerRollout", request, context)
        return control.ChangeResponse(changes=self.changes, revision=7)

    def ListVersions(self, request: Any, context: Any) -> Any:
        self._ask("ListVersions", request, context)
        service = self.views[-1].service
        version = types.ServiceVersion(
            generation=service.generation,
            cause="apply",
            spec=service.spec,
            applied_at=service.applied_at,
            applied_by=service.applied_by,
        )
        return control.ListVersionsResponse(versions=[version])

    def Drain(self, request: Any, context: Any) -> Any:
        self._ask("Drain", request, context)
        return control.ChangeResponse(changes=self.changes, revision=7)

    def DeleteService(self, request: Any, context: Any) -> Any:
        self._ask("DeleteService", request, context)
        return control.ChangeResponse(changes=self.changes, revision=7)

    def DeleteSecret(self, request: Any, context: Any) -> Any:
        self._ask("DeleteSecret", request, context)
        return control.ChangeResponse(changes=self.changes, revision=7)

    def ListSecrets(self, request: Any, context: Any) -> Any:
        self._ask("ListSecrets", request, context)
        return control.ListSecretsResponse(secrets=self.secrets)

    def DeleteQuota(self, request: Any, context: Any) -> Any:
        self._ask("DeleteQuota", request, context)
        return control.ChangeResponse(changes=self.changes, revision=7)

    def ListQuotas(self, request: Any, context: Any) -> Any:
        self._ask("ListQuotas", request, context)
        return control.ListQuotasResponse(quotas=self.quotas)

    def TaintNode(self, request: Any, context: Any) -> Any:
        self._ask("TaintNode", request, context)
        return control.ChangeResponse(changes=self.changes, revision=7)

    def GetNode(self, request: Any, context: Any) -> Any:
        self._ask("GetNode", request, context)
        return self.node

    def Logs(self, request: Any, context: Any) -> Iterator[Any]:
        self._ask("Logs", request, context)
        yield from self.lines

    def Exec(self, requests: Any, context: Any) -> Iterator[Any]:
        context.send_initial_metadata(ACCEPTED)
        start = next(requests).start
        self.asked["Exec"] = start
        typed = b""
        if self.asked["Exec"].tty:
            yield dispatcher.ExecOutput(stdout=b"ready")
        for request in requests:
            match request.WhichOneof("input"):
                case "stdin":
                    typed += request.stdin
                    if typed.endswith(b"\x04"):
                        yield dispatcher.ExecOutput(stdout=typed + b"end")
                        break
                case "resize":
                    size = f"{request.resize.rows}x{request.resize.columns}"
                    yield dispatcher.ExecOutput(stdout=size.encode())
                case _:
                    break
        yield dispatcher.ExecOutput(stdout=b"out:" + typed)
        yield dispatcher.ExecOutput(stderr=b"err")
        yield dispatcher.ExecOutput(exit_code=42)


def serve(fake: Fake, directory: Path) -> tuple[grpc.Server, int]:
    """Start, and write a context that reaches it below `directory`."""
    authority = pki.make_ca("test")
    server = pki.make_credentials(authority, pki.Holder.CONTROLLER, "c1", names=[SERVER_NAME])
    person = pki.make_credentials(authority, pki.Holder.OPERATOR, "ada")
    made = grpc.server(ThreadPoolExecutor(8))
    add_ControlServicer_to_server(fake, made)
    add_PlanningServicer_to_server(fake, made)
    credentials = grpc.ssl_server_credentials(
        [(server.key_pem, server.certificate_pem.encode())],
        root_certificates=authority.certificate_pem.encode(),
        require_client_auth=True,
    )
    port = made.add_secure_port("127.0.0.1:0", credentials)
    fake.address = f"127.0.0.1:{port}"
    made.start()
    config = load_config(directory)
    ca, cert, key = store_credentials(
        config,
        "test",
        ca_pem=authority.certificate_pem,
        certificate_pem=person.certificate_pem,
        key_pem=person.key_pem,
    )
    context = Context(name="test", controllers=(f"127.0.0.1:{port}",), ca=ca, cert=cert, key=key)
    save_config(config.with_context(context))
    return made, port


def a_service(
    *,
    ready: int = 6,
    updated: int = 6,
    desired: int = 6,
    generation: int = 2,
    rollout: RolloutState | None = RolloutState.COMPLETE,
    from_generation: int = 1,
    to_generation: int | None = None,
    reason: str = "",
    status: str = "running",
    status_reason: str = "",
    stopped: bool = False,
    completed: int = 0,
    tasks: tuple[Any, ...] = (),
    source: str = "kind: Service # typed\nname: shop-web\n",
) -> Any:
    """A ServiceView of `prod/shop-web`."""
    template = TaskTemplate(
        image="shop/web:1.42",
        ports=(Port(name="http", container=8080, publish=80),),
        health=HealthCheck(http=HttpCheck(port="http", path="/healthz")),
    )
    service = Service(
        namespace="prod",
        name="shop-web",
        uid="u1",
        generation=generation,
        spec=ServiceSpec(name="shop-web", namespace="prod", template=template, replicas=desired),
        template_hash="h",
        replicas=desired,
        stopped=stopped,
        source=source,
        created_at=NOW - 12 * 86400,
        applied_at=NOW - 200,
        applied_by="ada",
    )
    view = control.ServiceView(
        service=to_pb(service),
        replicas_desired=desired,
        replicas_ready=ready,
        replicas_updated=updated,
        restarts_last_hour=4,
        completed=completed,
        status=status,
        status_reason=status_reason,
        tasks=tasks,
        revision=7,
    )
    if rollout is not None:
        made = Rollout(
            namespace="prod",
            service="shop-web",
            from_generation=from_generation,
            to_generation=generation if to_generation is None else to_generation,
            state=rollout,
            reason=reason,
            started_at=NOW - 300,
            progress_at=NOW - 192,
        )
        view.rollout.CopyFrom(to_pb(made))
    return view


def a_task(
    slot: int,
    state: TaskState = TaskState.RUNNING,
    *,
    attempt: int = 1,
    node: str = "h1",
    generation: int = 2,
    why: str = "",
    health: Health = Health.HEALTHY,
) -> Any:
    """A TaskView of shop-web."""
    task = Task(
        namespace="prod",
        service="shop-web",
        service_uid="u1",
        slot=slot,
        attempt=attempt,
        uid=f"t{slot}",
        generation=generation,
        template_hash="h",
        node=node,
        created_at=NOW - 100,
    )
    status = TaskStatus(
        namespace="prod",
        task=task.name,
        uid=task.uid,
        node=node,
        state=state,
        health=health,
        incarnation=1,
        started_at=NOW - 90,
        address="10.96.0.2",
    )
    number = types.TaskState.Value(enum_name(TaskState, state.name))
    view = control.TaskView(task=to_pb(task), state=number, why=why)
    if state is not TaskState.PENDING:
        view.status.CopyFrom(to_pb(status))
    return view
