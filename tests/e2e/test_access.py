"""Who may do what, and what a revoked certificate is worth."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import grpc
import pytest
from grpc import aio

from bayplan.client import CHANNEL_OPTIONS
from bayplan.https import client_context
from bayplan.oci.registry import Endpoint, RegistryClient, RegistryError
from bayplan.pki import SERVER_NAME
from bayplan.wire._pb.bayplan.v1 import dispatcher_pb2 as dispatcher
from bayplan.wire._pb.bayplan.v1.dispatcher_pb2_grpc import DispatcherStub
from bayplan.wire.acceptance import accepted
from tests.e2e.rig import Rig, a_service, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.root, pytest.mark.timeout(180)]


def log_in(cluster: Rig, name: str, *options: str) -> None:
    """A user of that name, with a context of the same name in the lab's configuration."""
    cluster.bay("user", "add", name, *options)
    token = cluster.bay("user", "token", name).strip()
    cluster.bay("login", f"{cluster.controller}:7444", "--name", name, stdin=token)
    cluster.bay("context", "use", cluster.name)


def test_a_viewer_can_look_and_nothing_else(cluster: Rig) -> None:
    """The refusal says who you are, what you lack and how to get it; exit code 4."""
    log_in(cluster, "vera", "--role", "viewer")
    assert cluster.run("get", context="vera").returncode == 0
    refused = cluster.run("apply", "-", stdin=a_service("shop"), context="vera")
    assert refused.returncode == 4
    assert "vera" in refused.stderr
    assert "operator" in refused.stderr
    assert cluster.run("describe", "shop").returncode == 3


def test_exec_is_granted_apart(cluster: Rig) -> None:
    """An operator can apply and not exec, until it is granted."""
    log_in(cluster, "otto", "--role", "operator")
    done = cluster.run("apply", "-", stdin=a_service("shop", replicas="1"), context="otto")
    assert done.returncode == 0, done.stderr
    (task,) = cluster.runs("shop")
    refused = cluster.run("exec", "--context", "otto", task, "--", "id")
    assert refused.returncode == 4
    assert "exec" in refused.stderr
    cluster.bay("user", "add", "otto", "--role", "operator", "--exec")
    allowed = cluster.run("exec", "--context", "otto", task, "--", "id", "-u")
    assert (allowed.returncode, allowed.stdout) == (0, "0\n")


def test_a_removed_user_is_out_at_once(cluster: Rig) -> None:
    """The certificate is as valid as ever, and worth nothing."""
    log_in(cluster, "rita", "--role", "viewer")
    assert cluster.run("get", context="rita").returncode == 0
    cluster.bay("user", "rm", "rita")
    assert cluster.run("get", context="rita").returncode == 4


async def a_session(cluster: Rig, pki: Path) -> dispatcher.ControllerMessage:
    """What the controller says to the holder of a node's certificate."""
    credentials = grpc.ssl_channel_credentials(
        (pki / "ca.pem").read_bytes(),
        (pki / "key.pem").read_bytes(),
        (pki / "certificate.pem").read_bytes(),
    )
    address = f"{cluster.controller}:7443"
    async with aio.secure_channel(address, credentials, CHANNEL_OPTIONS) as channel:
        call = DispatcherStub(channel).Session(timeout=10)
        await accepted(call)
        hello = dispatcher.AgentHello(protocol=1, version="0", sent_at=1.0)
        await call.write(dispatcher.AgentMessage(hello=hello))
        answer: dispatcher.ControllerMessage = await call.read()
        return answer


async def an_image(cluster: Rig, pki: Path) -> list[str]:
    tls = client_context(pki / "certificate.pem", pki / "key.pem", pki / "ca.pem")
    endpoint = Endpoint(f"{cluster.controller}:7445", tls, server_name=SERVER_NAME)
    async with RegistryClient(endpoint) as registry:
        return await registry.tags("web")


async def test_a_stolen_node_certificate_is_refused_after_removal(
    cluster: Rig, tmp_path: Path
) -> None:
    """Good until `node rm`; then no session and no image, though it has months to live."""
    stolen = tmp_path / "pki"
    cluster.lab("kill-agent", "h3")
    shutil.copytree(cluster.directory / "h3/state/pki", stolen)
    assert (await a_session(cluster, stolen)).HasField("welcome")
    assert "1" in await an_image(cluster, stolen)
    cluster.bay("node", "rm", "h3", "--force")
    with pytest.raises(aio.AioRpcError) as refused:
        await a_session(cluster, stolen)
    assert refused.value.code() in (
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNAUTHENTICATED,
    )
    with pytest.raises(RegistryError, match="refuses access"):
        await an_image(cluster, stolen)
    assert "h3" not in cluster.bay("node", "ls")
    rejoin(cluster, "h3")


def rejoin(cluster: Rig, host: str) -> None:
    """A token bound to the name, and the host is a node again."""
    token = cluster.bay("node", "token", host)
    command = [sys.executable, "-m", "agent", "join", "--name", host]
    command += ["--controller", f"{cluster.controller}:7444"]
    command += ["--state-dir", str(cluster.directory / host / "state")]
    cluster.lab("shell", host, *command, stdin=token)
    cluster.lab("start-agent", host)
    eventually(f"{host} is ready", lambda: cluster.node_state(host) == "ready")
