"""Hosts that join, hold sessions, serve logs and exec, and are removed."""

from __future__ import annotations

import asyncio
import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio

from bayplan import client as clients
from bayplan import pki
from bayplan.client import CHANNEL_OPTIONS, Credentials
from bayplan.model.errors import Conflict, Failed, NotFound, PermissionDenied, Unavailable
from bayplan.wire._pb.bayplan.v1 import control_pb2 as control
from bayplan.wire._pb.bayplan.v1 import dispatcher_pb2 as pb
from bayplan.wire._pb.bayplan.v1 import types_pb2
from bayplan.wire._pb.bayplan.v1.control_pb2 import ApplyRequest
from bayplan.wire._pb.bayplan.v1.control_pb2_grpc import ControlStub
from tests.integration.controller.agents import Host, serve_logs
from tests.integration.controller.running import (
    Running,
    a_node,
    a_node_token,
    a_service,
    a_user,
    applying,
    fetch,
)


async def serving(client: clients.Client, service: str, ready: int) -> Any:
    """The view once `ready` tasks of the service serve."""
    async with asyncio.timeout(15):
        async for view in client.watch_service("default", service):
            if view.replicas_ready == ready:
                return view
    raise AssertionError("the watch ended")


async def test_join_gives_a_subnet_and_a_certificate(running: Running) -> None:
    """Two hosts get different subnets of the pool."""
    await a_node(running, "join-1")
    await a_node(running, "join-2")
    async with running.client() as client:
        nodes = {v.node.name: v.node for v in await client.list_nodes()}
    assert nodes["join-1"].subnet.startswith("10.")
    assert nodes["join-1"].subnet != nodes["join-2"].subnet


async def test_wrong_tokens_are_refused(running: Running) -> None:
    """A changed secret, an expired one, one of another purpose, one bound to another name."""
    token = pki.parse_token(await a_node_token(running))
    forged = pki.Token(token.id, "a" * 32, token.ca_digest).text()
    with pytest.raises(PermissionDenied, match="not known here"):
        await a_node(running, "forged", forged)
    short = await a_node_token(running, lifetime_s=0.2)
    await asyncio.sleep(0.3)
    with pytest.raises(PermissionDenied, match="expired"):
        await a_node(running, "late", short)
    bound = await a_node_token(running, "right")
    with pytest.raises(PermissionDenied, match="for node right alone"):
        await a_node(running, "wrong", bound)
    await a_node(running, "right", bound)
    with pytest.raises(PermissionDenied, match="used already"):
        await a_node(running, "right", bound)


async def test_token_pins_the_ca(running: Running) -> None:
    """A controller of another cluster is not believed, and does not see the token."""
    other = pki.make_ca("other")
    with pytest.raises(PermissionDenied, match="not a controller of the cluster"):
        await clients.fetch_ca(running.addresses["join"], pki.ca_digest(other.certificate_pem))


async def test_the_agents_port_is_told_from_the_one_for_joining(running: Running) -> None:
    """Who joins at the port that agents use hears that joining has its own."""
    with pytest.raises(Unavailable, match=r"joining has a port of its own \(7444 by default\)"):
        await clients.fetch_ca(running.addresses["control"], "digest")


async def test_name_taken_needs_a_bound_token(running: Running) -> None:
    """Nobody takes another's name over with a token for anybody; the bound one ends the old
    certificate."""
    before = await a_node(running, "taken")
    with pytest.raises(Conflict, match="there is a node taken already"):
        await a_node(running, "taken")
    bound = await a_node_token(running, "taken")
    after = await a_node(running, "taken", bound)
    async with Host("taken", running.addresses["control"], before) as host:
        error = await asyncio.wait_for(host.ended, 5)
        assert isinstance(error, aio.AioRpcError)
        assert "was revoked" in (error.details() or "")
    async with Host("taken", running.addresses["control"], after) as host:
        await asyncio.wait_for(host.welcomed.wait(), 5)


async def test_too_many_wrong_tokens_have_to_wait(own: Running) -> None:
    """Guessing is slowed down per source address."""
    own.start()
    token = pki.parse_token(await a_node_token(own))
    forged = pki.Token(token.id, "b" * 32, token.ca_digest).text()
    for _ in range(10):
        with pytest.raises(PermissionDenied):
            await a_node(own, "guess", forged)
    with pytest.raises(Unavailable, match="too many refused attempts"):
        await a_node(own, "guess", token.text())


async def test_node_runs_tasks_and_logs_and_exec(own: Running) -> None:
    """From apply to a log line and an exit code, through the session and its tunnels."""
    own.start()
    running = own
    credentials = await a_node(running, "worker")
    async with (
        Host("worker", running.addresses["control"], credentials) as host,
        running.client() as client,
    ):
        await client.apply(applying(a_service("runs", replicas=2)))
        view = await serving(client, "runs", 2)
        names = sorted(f"{t.task.service}.{t.task.slot}.{t.task.attempt}" for t in view.tasks)
        answering = asyncio.create_task(serve_logs(host, b"hello", b"world"))
        request = pb.LogsRequest(namespace="default", service="runs")
        lines = [line async for line in client.logs(request)]
        answering.cancel()
        assert sorted(line.task for line in lines) == sorted(names * 2)
        assert {line.line for line in lines} == {b"hello", b"world"}
        assert await execute(client, host, names[0]) == [b"abc", 7]
        await client.delete_service("default", "runs")


async def test_followed_logs_go_on_through_a_rollout(own: Running) -> None:
    """Tasks that come while a service is followed are followed, too; a node that goes away is
    told in a line of its own."""
    own.start()
    credentials = await a_node(own, "worker")
    seen: set[str] = set()
    async with own.client() as client:
        async with Host("worker", own.addresses["control"], credentials) as host:
            await client.apply(applying(a_service("told", replicas=1)))
            await serving(client, "told", 1)
            answering = asyncio.create_task(serve_logs(host, b"hello", follow=True))
            request = pb.LogsRequest(namespace="default", service="told", follow=True)
            lines = client.logs(request)
            async with asyncio.timeout(20):
                async for line in lines:
                    if not seen:
                        await client.restart("default", "told")
                    seen.add(line.task)
                    if len(seen) == 2:
                        break
            answering.cancel()
        assert seen == {"told.1.1", "told.1.2"}
        async with asyncio.timeout(10):
            while "node worker is not connected" not in (await anext(lines)).notice:
                pass


async def answer_order(host: Host, frame: pb.TunnelFrame) -> pb.TaskOrder:
    """What the host was ordered, answered with the frame."""
    asked = await host.asked.get()
    async with host.tunnel(asked.tunnel) as call:
        await call.write(frame)
        await call.read()
    return asked.order


async def test_orders_reach_the_host_and_its_answer_the_operator(own: Running) -> None:
    """A signal, a pause: done, refused with the host's words, or not known to an older agent; who
    did it is an event. Only the role operator may."""
    own.start()
    credentials = await a_node(own, "worker")
    viewer = await a_user(own, "vera", types_pb2.ROLE_VIEWER)
    done = pb.TunnelFrame(order_done=pb.OrderDone())
    async with (
        Host("worker", own.addresses["control"], credentials) as host,
        own.client() as client,
        own.client(viewer) as reader,
        asyncio.timeout(60),
    ):
        await client.apply(applying(a_service("told", replicas=1)))
        await serving(client, "told", 1)
        said, order = await asyncio.gather(
            client.signal_task("default", "told.1.1", "usr1"), answer_order(host, done)
        )
        assert order.signal == "USR1"
        assert [(c.name, c.effect) for c in said.changes] == [("told.1.1", "SIGUSR1 sent")]
        _, order = await asyncio.gather(
            client.pause_task("default", "told.1.1"), answer_order(host, done)
        )
        assert order.WhichOneof("order") == "pause"
        assert order.pause
        refused = pb.TunnelFrame(order_done=pb.OrderDone(error="it does not freeze"))
        answering = asyncio.create_task(answer_order(host, refused))
        with pytest.raises(Failed, match="it does not freeze"):
            await client.unpause_task("default", "told.1.1")
        assert not (await answering).pause
        older = pb.TunnelFrame(exec_output=pb.ExecOutput(error="nothing to execute"))
        answering = asyncio.create_task(answer_order(host, older))
        with pytest.raises(Failed, match="agent of node worker is too old"):
            await client.pause_task("default", "told.1.1")
        await answering
        with pytest.raises(PermissionDenied, match="needs the role operator"):
            await reader.signal_task("default", "told.1.1", "KILL")
        with pytest.raises(NotFound, match=r"there is no task told\.1\.9"):
            await client.pause_task("default", "told.1.9")
        events = client.list_events(control.ListEventsRequest(namespace="default", name="told.1.1"))
        told = {(e.reason, e.message) async for e in events}
        assert ("Signalled", "SIGUSR1 sent by admin") in told
        assert ("Paused", "paused by admin") in told


async def test_top_gathers_from_the_hosts(own: Running) -> None:
    """The figures of the tasks asked for, with the names the controller knows; a host that goes is
    told in a notice; viewers may look."""
    own.start()
    credentials = await a_node(own, "worker")
    viewer = await a_user(own, "vera", types_pb2.ROLE_VIEWER)
    async with own.client(viewer) as reader, own.client() as client, asyncio.timeout(60):
        async with Host("worker", own.addresses["control"], credentials) as host:
            await client.apply(applying(a_service("used", replicas=1)))
            view = await serving(client, "used", 1)
            host.tell(replace(host.status(view.tasks[0].task), pid=7))
            uid = view.tasks[0].task.uid
            stream = reader.top(control.TopRequest(namespace="default", service="used"))
            answering = asyncio.create_task(serve_stats(host, uid))
            batch = await anext(stream)
            assert [(s.task, s.node, s.cpu_ns) for s in batch.tasks] == [("used.1.1", "worker", 5)]
            answering.cancel()
        while not (batch := await anext(stream)).notice:
            pass
        assert "worker" in batch.notice
        with pytest.raises(NotFound, match="there is no service none"):
            await anext(reader.top(control.TopRequest(namespace="default", service="none")))


async def serve_stats(host: Host, uid: str) -> None:
    """One look, which also tells of a task that nobody asked for."""
    asked = await host.asked.get()
    assert list(asked.stats.task_uids) == [uid]
    async with host.tunnel(asked.tunnel) as call:
        told = [
            pb.TaskStats(task_uid=u, task="forged", node="forged", cpu_ns=5) for u in (uid, "x")
        ]
        await call.write(pb.TunnelFrame(stats=pb.StatsBatch(tasks=told)))
        await call.read()


async def execute(client: clients.Client, host: Host, task: str) -> list[Any]:
    """Exec in the task; the host answers with what it gets and exit code 7."""

    async def inputs() -> Any:
        start = pb.ExecStart(namespace="default", task=task, command=["cat"], stdin=True)
        yield pb.ExecInput(start=start)
        yield pb.ExecInput(stdin=b"abc")
        await asyncio.sleep(5)

    async def answer() -> None:
        asked = await host.asked.get()
        assert list(asked.exec.command) == ["cat"]
        async with host.tunnel(asked.tunnel) as call:
            frame = await call.read()
            stdout = pb.ExecOutput(stdout=frame.exec_input.stdin)
            await call.write(pb.TunnelFrame(exec_output=stdout))
            await call.write(pb.TunnelFrame(exec_output=pb.ExecOutput(exit_code=7)))
            await call.write(pb.TunnelFrame(close=pb.TunnelClose()))
            await call.read()

    answering = asyncio.create_task(answer())
    got: list[Any] = []
    async with asyncio.timeout(10):
        async for output in client.exec(inputs()):
            kind = output.WhichOneof("output")
            got.append(output.stdout if kind == "stdout" else output.exit_code)
    await answering
    return got


async def test_node_that_does_not_dial_is_named(own: Running) -> None:
    """Logs of a task whose node does not answer end with a notice that says so."""
    own.start()
    running = own
    credentials = await a_node(running, "deaf")
    async with (
        Host("deaf", running.addresses["control"], credentials),
        running.client() as client,
    ):
        spec = a_service("unheard", replicas=1)
        await client.apply(applying(spec))
        view = await serving(client, "unheard", 1)
        request = pb.LogsRequest(namespace="default", service="unheard")
        async with asyncio.timeout(10):
            (line,) = [line async for line in client.logs(request)]
        assert f"node {view.tasks[0].task.node} did not answer within 5 s" in line.notice
        await client.delete_service("default", "unheard")


async def test_nobody_dials_anothers_tunnel(running: Running) -> None:
    """A tunnel that was not asked for is refused."""
    credentials = await a_node(running, "sneaky")
    async with Host("sneaky", running.addresses["control"], credentials) as host:
        async with host.tunnel("0" * 32) as call:
            with pytest.raises(aio.AioRpcError) as refused:
                await call.read()
        assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_stolen_certificate_is_refused_after_removal(running: Running) -> None:
    """`bay node rm` ends the node's session at once and refuses its certificate for everything."""
    credentials = await a_node(running, "stolen")
    address = running.addresses["control"]
    async with Host("stolen", address, credentials) as host, running.client() as client:
        await asyncio.wait_for(host.welcomed.wait(), 5)
        await client.remove_node("stolen", force=True)
        error = await asyncio.wait_for(host.ended, 5)
        assert isinstance(error, aio.AioRpcError)
    async with Host("stolen", address, credentials) as host:
        error = await asyncio.wait_for(host.ended, 5)
        assert isinstance(error, aio.AioRpcError)
        assert error.code() is grpc.StatusCode.PERMISSION_DENIED
        with pytest.raises(aio.AioRpcError) as refused:
            await host.stub.RenewCertificate(pb.RenewCertificateRequest(), timeout=5)
        assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_node_cannot_act_as_an_operator(running: Running) -> None:
    """Its certificate opens the dispatcher alone."""
    credentials = await a_node(running, "pretends")
    channel = aio.secure_channel(
        running.addresses["control"], credentials.channel(), options=CHANNEL_OPTIONS
    )
    async with channel:
        stub: Any = ControlStub(channel)
        with pytest.raises(aio.AioRpcError) as refused:
            await stub.Apply(ApplyRequest(), timeout=5)
    assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert "node pretends cannot call Apply" in (refused.value.details() or "")


async def test_node_renews_its_certificate(running: Running) -> None:
    """The new one works, and so does the old one until it expires."""
    credentials = await a_node(running, "renews")
    address = running.addresses["control"]
    async with Host("renews", address, credentials) as host:
        csr = pki.make_csr(credentials.key_pem.encode(), "renews")
        answer = await host.stub.RenewCertificate(pb.RenewCertificateRequest(csr_pem=csr))
    renewed = Credentials(
        ca_pem=credentials.ca_pem,
        certificate_pem=answer.certificate_pem,
        key_pem=credentials.key_pem,
    )
    for held in (renewed, credentials):
        async with Host("renews", address, held) as host:
            await asyncio.wait_for(host.welcomed.wait(), 5)


async def test_cordon_drain_label(running: Running) -> None:
    """What operators set on a node."""
    await a_node(running, "set")
    async with running.client() as client:
        await client.cordon("set")
        await client.label_node("set", {"disk": "ssd"})
        drained = await client.drain("set")
        view = await client.get_node("set")
        assert view.node.cordoned
        assert view.node.draining
        assert dict(view.node.labels) == {"disk": "ssd"}
        assert "moves 0 tasks" in drained.changes[0].effect
        await client.uncordon("set")
        view = await client.get_node("set")
        assert not view.node.cordoned
        assert not view.node.draining


async def test_web_face(running: Running, tmp_path: Path) -> None:
    """Metrics and targets for who may read; a removed node's certificate is refused."""
    admin = running.state / "admin"
    credentials = await a_node(running, "scraped")
    async with Host("scraped", running.addresses["control"], credentials):
        async with asyncio.timeout(10):
            while True:
                status, body = await asyncio.to_thread(fetch, running, "/sd/agents", admin)
                targets = {g["labels"]["node"]: g["targets"] for g in json.loads(body)}
                if "scraped" in targets:
                    break
                await asyncio.sleep(0.1)
        assert targets["scraped"] == ["127.0.0.1:9101"]
        status, body = await asyncio.to_thread(fetch, running, "/metrics", admin)
        assert status == 200
        assert b"bayplan_controller_leader 1.0" in body
        assert b'bayplan_controller_nodes{state="ready"}' in body
        checked = subprocess.run(
            ["promtool", "check", "metrics"], input=body, capture_output=True, timeout=30
        )
        assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")
        assert (await asyncio.to_thread(fetch, running, "/readyz", admin))[0] == 200
    for name, text in (
        ("ca.pem", credentials.ca_pem),
        ("cert.pem", credentials.certificate_pem),
        ("key.pem", credentials.key_pem),
    ):
        (tmp_path / name).write_text(text)
    status, body = await asyncio.to_thread(fetch, running, "/metrics", tmp_path)
    assert status == 403
    assert b"nodes only talk to the dispatcher" in body
