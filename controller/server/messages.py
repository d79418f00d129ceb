"""The dispatcher's messages between their wire form and the sessions' values."""

from __future__ import annotations

from typing import assert_never

from bayplan.model.errors import InvalidSpec
from bayplan.model.event import Event
from bayplan.model.node import NodeReport
from bayplan.model.task import TaskStatus
from bayplan.wire._pb.bayplan.v1 import dispatcher_pb2 as dispatcher
from bayplan.wire.convert import from_pb, to_pb
from controller.reconcilers import messages


def hello(message: dispatcher.AgentHello) -> messages.AgentHello:
    return messages.AgentHello(
        protocol=message.protocol,
        version=message.version,
        features=tuple(message.features),
        report=from_pb(NodeReport, message.report),
        statuses=tuple(from_pb(TaskStatus, s) for s in message.statuses),
        sent_at=message.sent_at,
    )


def received(message: dispatcher.AgentMessage) -> messages.AgentMessage | None:
    """None: a newer agent's message that this version does not know. Raises UnknownValue."""
    match message.WhichOneof("message"):
        case "hello":
            return hello(message.hello)
        case "statuses":
            batch = message.statuses
            statuses = tuple(from_pb(TaskStatus, s) for s in batch.statuses)
            return messages.StatusBatch(batch.sequence, statuses)
        case "ack":
            withdrawn = tuple(message.ack.withdrawn_uids)
            return messages.AssignmentAck(message.ack.sequence, withdrawn)
        case "heartbeat":
            return messages.Heartbeat(message.heartbeat.sent_at)
        case "report":
            return messages.Report(from_pb(NodeReport, message.report))
        case "goodbye":
            return messages.Goodbye(message.goodbye.reason, message.goodbye.back_within_s)
        case "events":
            return messages.EventBatch(tuple(from_pb(Event, e) for e in message.events.events))
        case _:
            return None


def sent(message: messages.ControllerMessage) -> dispatcher.ControllerMessage:
    """Raises InvalidSpec for EndSession, which is a status and not a message."""
    match message:
        case messages.Welcome():
            welcome = dispatcher.Welcome(
                protocol=message.protocol,
                version=message.version,
                features=message.features,
                session=message.session,
                heartbeat_interval_s=message.heartbeat_interval_s,
                heartbeat_grace_s=message.heartbeat_grace_s,
                node=to_pb(message.node),
                sent_at=message.sent_at,
            )
            return dispatcher.ControllerMessage(welcome=welcome)
        case messages.AssignmentSet():
            assignments = dispatcher.AssignmentSet(
                sequence=message.sequence,
                complete=message.complete,
                assignments=[to_pb(a) for a in message.assignments],
                removed_uids=message.removed_uids,
            )
            return dispatcher.ControllerMessage(assignments=assignments)
        case messages.StatusAck(sequence):
            return dispatcher.ControllerMessage(ack=dispatcher.StatusAck(sequence=sequence))
        case messages.Operators(serials):
            return dispatcher.ControllerMessage(operators=dispatcher.Operators(serials=serials))
        case messages.HeartbeatAck(sent_at, received_at, lease):
            ack = dispatcher.HeartbeatAck(sent_at=sent_at, received_at=received_at, lease=lease)
            return dispatcher.ControllerMessage(heartbeat=ack)
        case messages.EndSession():
            raise InvalidSpec("the end of a session is a status, not a message")
        case _:
            assert_never(message)
