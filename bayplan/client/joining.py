"""Joining and log-in: the port where only the server shows who it is."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any, Final, cast

from grpc import aio

from bayplan import pki
from bayplan.client.channel import CHANNEL_OPTIONS, CONNECT_S, DEADLINE_S, Credentials
from bayplan.client.failures import domain_error, from_transport, plain
from bayplan.model import errors
from bayplan.wire._pb.bayplan.v1 import dispatcher_pb2 as dispatcher
from bayplan.wire._pb.bayplan.v1.dispatcher_pb2_grpc import JoinStub

_CHECK_PORT: Final = "check the address; joining has a port of its own (7444 by default)"


def _host_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise errors.InvalidSpec(f"{address!r} is not HOST:PORT, e.g. 10.0.0.1:7444")
    return host.strip("[]"), int(port)


async def fetch_ca(address: str, digest: str) -> str:
    """The cluster's CA certificate, checked against the `ca_digest` a token pins.

    The certificate the server shows is fetched unverified and trusted for this one request, which
    sends nothing secret; only what comes back with the pinned digest is trusted from then on.
    Raises Unavailable, PermissionDenied (another CA: a wrong address, or somebody between).
    """
    try:
        async with asyncio.timeout(CONNECT_S):
            shown = await asyncio.to_thread(
                ssl.get_server_certificate, _host_port(address), timeout=CONNECT_S
            )
    except (OSError, TimeoutError) as error:
        raise errors.Unavailable(
            f"{address} does not answer: {error or 'timed out'}",
            hint=_CHECK_PORT,
        ) from error
    answer = await _join_call(address, shown, "FetchCa", dispatcher.FetchCaRequest())
    ca_pem = str(answer.ca_certificate_pem)
    if pki.ca_digest(ca_pem) != digest:
        raise errors.PermissionDenied(
            f"{address} is not a controller of the cluster that made this token",
            hint="check the address, or ask for a new token",
        )
    return ca_pem


async def _join_call(address: str, ca_pem: str, method: str, request: Any) -> Any:
    credentials = Credentials(ca_pem=ca_pem).channel()
    async with aio.secure_channel(address, credentials, options=CHANNEL_OPTIONS) as channel:
        try:
            return await getattr(JoinStub(channel), method)(request, timeout=DEADLINE_S)
        except aio.AioRpcError as error:
            if from_transport(error):
                raise errors.Unavailable(plain(address, error), hint=_CHECK_PORT) from error
            raise domain_error(error) from error


async def join_node(
    address: str, ca_pem: str, *, token: str, node: str, csr_pem: str
) -> dispatcher.JoinNodeResponse:
    """A node's certificate for a token. `ca_pem` comes from `fetch_ca`. Raises PermissionDenied,
    InvalidSpec, Conflict, NotLeader, Unavailable."""
    request = dispatcher.JoinNodeRequest(token=token, node=node, csr_pem=csr_pem)
    answer = await _join_call(address, ca_pem, "JoinNode", request)
    return cast(dispatcher.JoinNodeResponse, answer)


async def login(address: str, ca_pem: str, *, token: str, csr_pem: str) -> dispatcher.LoginResponse:
    """An operator's certificate for a one-time token. Raises as `join_node`."""
    request = dispatcher.LoginRequest(token=token, csr_pem=csr_pem)
    answer = await _join_call(address, ca_pem, "Login", request)
    return cast(dispatcher.LoginResponse, answer)
