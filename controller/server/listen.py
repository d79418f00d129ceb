"""The two gRPC listeners: mutual TLS for operators and agents, server-only TLS for joining."""

from __future__ import annotations

import contextlib
import socket
from dataclasses import dataclass
from typing import Any, Final

from grpc import aio

from bayplan.model.errors import Unavailable
from bayplan.wire._pb.bayplan.v1.control_pb2_grpc import (
    ControlServicer,
    add_ControlServicer_to_server,
)
from bayplan.wire._pb.bayplan.v1.dispatcher_pb2_grpc import (
    DispatcherServicer,
    JoinServicer,
    add_DispatcherServicer_to_server,
    add_JoinServicer_to_server,
)
from bayplan.wire._pb.bayplan.v1.planning_pb2_grpc import (
    PlanningServicer,
    add_PlanningServicer_to_server,
)
from controller.config import Config
from controller.server.edge import Gate, JoinGate
from controller.server.trust import ServerCertificate

STOP_S: Final = 0.5
JOIN_CALLS_MAX: Final = 100

OPTIONS: Final[list[tuple[str, Any]]] = [
    ("grpc.so_reuseport", 0),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    # Without it a frozen peer is noticed after a minute, whatever keepalive says.
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # Clients ping every 10 s; by default a server calls that abuse where a stream is silent.
    ("grpc.http2.min_ping_interval_without_data_ms", 4_000),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 1_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.max_send_message_length", 64 << 20),
    ("grpc.max_concurrent_streams", 10_000),
]


class CannotListen(Unavailable):
    code = "cannot_listen"


def check_ports(config: Config) -> None:
    """Raises CannotListen where one of the ports cannot be had, before anything is written."""
    wanted = {
        "--listen": config.listen,
        "--join-listen": config.join_listen,
        "--registry-listen": config.registry_listen,
        "--web-listen": config.web_listen,
    }
    with contextlib.ExitStack() as opened:
        for flag, where in wanted.items():
            family = socket.AF_INET6 if ":" in where.host else socket.AF_INET
            probe = opened.enter_context(socket.socket(family, socket.SOCK_STREAM))
            # As the servers themselves do, past connections that linger.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((where.host, where.port))
                probe.listen()
            except OSError as error:
                raise CannotListen(
                    f"cannot listen on {where} ({flag}): {error.strerror}",
                    hint="another process has the port, or the address is not this host's",
                ) from error


@dataclass(frozen=True, slots=True)
class Listening:
    server: aio.Server
    port: int

    async def stop(self) -> None:
        await self.server.stop(STOP_S)


def _listen(server: aio.Server, address: str, credentials: Any, flag: str) -> int:
    try:
        return server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise CannotListen(
            f"cannot listen on {address} ({flag})",
            hint="another process has the port, or the address is not this host's",
        ) from error


async def control(
    address: str,
    certificate: ServerCertificate,
    gate: Gate,
    control_service: ControlServicer,
    dispatcher_service: DispatcherServicer,
    planning_service: PlanningServicer,
) -> Listening:
    """Raises CannotListen."""
    server = aio.server(interceptors=[gate], options=OPTIONS)
    add_ControlServicer_to_server(control_service, server)
    add_DispatcherServicer_to_server(dispatcher_service, server)
    add_PlanningServicer_to_server(planning_service, server)
    credentials = certificate.grpc_credentials(require_client=True)
    port = _listen(server, address, credentials, "--listen")
    await server.start()
    return Listening(server, port)


async def join(
    address: str, certificate: ServerCertificate, gate: JoinGate, service: JoinServicer
) -> Listening:
    """Raises CannotListen."""
    server = aio.server(
        interceptors=[gate], options=OPTIONS, maximum_concurrent_rpcs=JOIN_CALLS_MAX
    )
    add_JoinServicer_to_server(service, server)
    credentials = certificate.grpc_credentials(require_client=False)
    port = _listen(server, address, credentials, "--join-listen")
    await server.start()
    return Listening(server, port)
