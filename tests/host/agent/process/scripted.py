"""A controller that says what the test says, over the real protocol, and a host for one agent."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from grpc import StatusCode, aio, ssl_server_credentials

from agent.checkpoint import Checkpoint
from agent.identity import IdentityStore
from agent.images.content import Content
from bayplan import pki
from bayplan.client import CODE_KEY, SERVER_NAME
from bayplan.model.assignment import Assignment
from bayplan.model.errors import NodeRemoved
from bayplan.model.event import Event
from bayplan.model.node import Node
from bayplan.model.service import Port, TaskTemplate
from bayplan.model.task import DesiredState, PublishedPort, Task, TaskStatus
from bayplan.wire._pb.bayplan.v1 import dispatcher_pb2 as pb
from bayplan.wire._pb.bayplan.v1.dispatcher_pb2_grpc import (
    DispatcherServicer,
    add_DispatcherServicer_to_server,
)
from bayplan.wire.acceptance import accept
from bayplan.wire.convert import from_pb, to_pb
from tests.patience import PATIENCE


def _number() -> tuple[int, socket.socket]:
    """One that no other run of these tests on this machine has, as long as the socket is open."""
    for number in range(32):
        held = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            held.bind(f"\0bayplan-agent-test-{number}")
        except OSError:
            held.close()
        else:
            return number, held
    raise RuntimeError("32 runs of these tests at once are enough")


NUMBER, _HELD = _number()
UPLINK, PEER = f"agt{NUMBER}up", f"agt{NUMBER}in"
CONTROLLER, HOST = f"10.199.{100 + 2 * NUMBER}.1", f"10.199.{100 + 2 * NUMBER}.2"
SUBNET = f"10.199.{101 + 2 * NUMBER}.0/24"
PORT = 17443
CGROUP = f"/bayplan-agent-test-{NUMBER}"
BRIDGE = "agtbr0"
IMAGE = "bb:1"
APPLETS = (
    "sh",
    "yes",
    "head",
    "sleep",
    "cat",
    "echo",
    "httpd",
    "nc",
    "id",
    "kill",
    "true",
    "env",
    "hostname",
)
DEADLINE_S = 15.0 * PATIENCE


def sh(command: str) -> str:
    return subprocess.run(
        command, shell=True, check=True, capture_output=True, text=True, timeout=20
    ).stdout


class Controller(DispatcherServicer):
    """Holds the assignments of one node; `statuses` is the last of every task."""

    def __init__(self, directory: Path) -> None:
        self.authority = pki.make_ca("test")
        self.assignments: dict[str, Assignment] = {}
        self.statuses: dict[str, TaskStatus] = {}
        self.history: list[TaskStatus] = []
        self.acks: list[pb.AssignmentAck] = []
        self.hellos: list[pb.AgentHello] = []
        self.events: list[Event] = []
        self.conditions: set[str] = set()
        self.heartbeats = 0
        self.goodbyes: list[pb.Goodbye] = []
        self.falls_at_goodbye = False  # once: it leads no more, and has not taken note
        self.operators: list[str] = []
        self.removed = False  # the node, from the cluster
        self.renewals = 0
        self.lifetime_s = pki.LEAF_LIFETIME_S
        self.tunnels: dict[str, tuple[asyncio.Queue[Any], asyncio.Queue[Any]]] = {}
        self._context: Any = None
        self._sequence = 0
        self._changed = asyncio.Condition()
        self._writing = asyncio.Lock()
        self._server: Any = None

    async def start(self) -> None:
        self._server = aio.server()
        credentials = pki.make_credentials(
            self.authority, pki.Holder.CONTROLLER, "c1", names=(SERVER_NAME,)
        )
        ca = self.authority.certificate_pem.encode()
        pair = [(credentials.key_pem, credentials.certificate_pem.encode())]
        add_DispatcherServicer_to_server(self, self._server)
        self._server.add_secure_port(
            f"{CONTROLLER}:{PORT}", ssl_server_credentials(pair, ca, require_client_auth=True)
        )
        await self._server.start()

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(0)

    async def Session(self, request_iterator: Any, context: Any) -> None:
        await self._refuse_removed(context)
        await accept(context)
        async for message in request_iterator:
            await self._refuse_removed(context)
            kind = message.WhichOneof("message")
            if kind == "hello":
                self._context, self._sequence = context, 1
                self.hellos.append(message.hello)
                self.conditions = {c.type for c in message.hello.report.conditions}
                self._note(message.hello.statuses)
                node = Node(name="h1", uid="n1", subnet=SUBNET)
                welcome = pb.Welcome(protocol=1, heartbeat_interval_s=0.5, node=to_pb(node))
                await self._write(context, pb.ControllerMessage(welcome=welcome))
                operators = pb.Operators(serials=self.operators)
                await self._write(context, pb.ControllerMessage(operators=operators))
                everything = [to_pb(a) for a in self.assignments.values()]
                full = pb.AssignmentSet(sequence=1, complete=True, assignments=everything)
                await self._write(context, pb.ControllerMessage(assignments=full))
            elif kind == "statuses":
                self._note(message.statuses.statuses)
                ack = pb.StatusAck(sequence=message.statuses.sequence)
                await self._write(context, pb.ControllerMessage(ack=ack))
            elif kind == "heartbeat":
                self.heartbeats += 1
                beat = pb.HeartbeatAck(sent_at=message.heartbeat.sent_at, received_at=time.time())
                await self._write(context, pb.ControllerMessage(heartbeat=beat))
            elif kind == "ack":
                self.acks.append(message.ack)
            elif kind == "report":
                self.conditions = {c.type for c in message.report.conditions}
            elif kind == "events":
                self.events += [from_pb(Event, e) for e in message.events.events]
            elif kind == "goodbye" and self.falls_at_goodbye:
                self.falls_at_goodbye = False
                await context.abort(StatusCode.UNAVAILABLE, "leads no more")
            elif kind == "goodbye":
                self.goodbyes.append(message.goodbye)
            async with self._changed:
                self._changed.notify_all()

    async def _refuse_removed(self, context: Any) -> None:
        if self.removed:
            failure = ((CODE_KEY, NodeRemoved.code),)
            said = "there is no node h1 in this cluster: it was removed"
            await context.abort(StatusCode.PERMISSION_DENIED, said, trailing_metadata=failure)

    async def _write(self, context: Any, message: pb.ControllerMessage) -> None:
        """gRPC takes one message of a stream at a time."""
        async with self._writing:
            await context.write(message)

    def _note(self, statuses: Any) -> None:
        for status in (from_pb(TaskStatus, s) for s in statuses):
            self.statuses[status.uid] = status
            self.history.append(status)

    async def Tunnel(self, request_iterator: Any, context: Any) -> None:
        first = await anext(aiter(request_iterator))
        incoming, outgoing = self.tunnels[first.hello.tunnel]

        async def send() -> None:
            while (frame := await outgoing.get()) is not None:
                await context.write(frame)

        sending = asyncio.create_task(send())
        try:
            async for frame in request_iterator:
                await incoming.put(frame)
                if frame.WhichOneof("frame") == "close":
                    break
        finally:
            sending.cancel()
            await incoming.put(None)

    async def RenewCertificate(self, request: Any, context: Any) -> Any:
        self.renewals += 1
        certificate = pki.issue(self.authority, request.csr_pem, pki.Holder.NODE, "h1")
        return pb.RenewCertificateResponse(
            certificate_pem=certificate, ca_certificate_pem=self.authority.certificate_pem
        )

    # -- what tests say ------------------------------------------------------------------------

    async def assign(self, *assignments: Assignment, removed: tuple[str, ...] = ()) -> int:
        """A delta; the sequence it has."""
        for assignment in assignments:
            self.assignments[assignment.task.uid] = assignment
        for uid in removed:
            self.assignments.pop(uid, None)
        self._sequence += 1
        delta = pb.AssignmentSet(
            sequence=self._sequence,
            assignments=[to_pb(a) for a in assignments],
            removed_uids=removed,
        )
        await self._write(self._context, pb.ControllerMessage(assignments=delta))
        return self._sequence

    async def open(self, uid: str, **request: Any) -> tuple[asyncio.Queue[Any], asyncio.Queue[Any]]:
        """A tunnel: (frames from the agent, frames to it)."""
        name = os.urandom(8).hex()
        self.tunnels[name] = (asyncio.Queue(), asyncio.Queue())
        tunnel = pb.OpenTunnel(tunnel=name, task_uid=uid, **request)
        await self._write(self._context, pb.ControllerMessage(open_tunnel=tunnel))
        return self.tunnels[name]

    async def until(self, what: Callable[[], object], deadline_s: float = DEADLINE_S) -> None:
        """Wait for something that messages bring about."""
        async with asyncio.timeout(deadline_s), self._changed:
            await self._changed.wait_for(what)

    async def until_state(self, uid: str, *states: str) -> TaskStatus:
        def reached() -> bool:
            status = self.statuses.get(uid)
            return status is not None and status.state.value in states

        await self.until(reached)
        return self.statuses[uid]

    async def until_status(self, uid: str, what: Callable[[TaskStatus], object]) -> TaskStatus:
        await self.until(lambda: uid in self.statuses and what(self.statuses[uid]))
        return self.statuses[uid]


class Machine:
    """A network namespace, a state directory, and at most one agent process in them."""

    def __init__(self, directory: Path, authority: pki.Authority) -> None:
        self.state = directory / "state"
        self.log = directory / "agent.log"
        self._holder = subprocess.Popen(["unshare", "--net", "sleep", "600"])
        self._process: subprocess.Popen[bytes] | None = None
        self._authority = authority
        self._wait_for_namespace()
        sh(
            f"ip link add {UPLINK} type veth peer name {PEER} netns {self._holder.pid};"
            f"ip addr add {CONTROLLER}/24 dev {UPLINK}; ip link set {UPLINK} up"
        )
        self.inside(
            f"ip link set lo up; ip addr add {HOST}/24 dev {PEER}; ip link set {PEER} up;"
            f"ip route add default via {CONTROLLER}"
        )
        self.issue()
        checkpoint = Checkpoint(self.state)
        checkpoint.put_node(Node(name="h1", uid="n1", subnet=SUBNET))
        checkpoint.put_controllers([f"{CONTROLLER}:{PORT}"])
        checkpoint.close()
        _import_image(self.state / "images")

    def _wait_for_namespace(self) -> None:
        own = os.readlink("/proc/self/ns/net")
        deadline = time.monotonic() + 5
        while os.readlink(f"/proc/{self._holder.pid}/ns/net") == own:
            assert time.monotonic() < deadline
            time.sleep(0.005)

    def issue(self, lifetime_s: float = pki.LEAF_LIFETIME_S, now: float | None = None) -> None:
        made = pki.make_credentials(
            self._authority, pki.Holder.NODE, "h1", lifetime_s=lifetime_s, now=now
        )
        IdentityStore(self.state / "pki").save(
            ca_pem=self._authority.certificate_pem,
            certificate_pem=made.certificate_pem,
            key_pem=made.key_pem,
        )

    def inside(self, command: str) -> str:
        return sh(f"nsenter --net=/proc/{self._holder.pid}/ns/net sh -c '{command}'")

    def start(self, *flags: str, log: Path | None = None) -> int:
        """The agent's pid."""
        with (log or self.log).open("ab") as log_file:
            self._process = subprocess.Popen(
                [
                    "nsenter", f"--net=/proc/{self._holder.pid}/ns/net",
                    sys.executable, "-m", "agent", "run",
                    "--state-dir", str(self.state), "--cgroup-root", CGROUP,
                    "--bridge", BRIDGE, *flags,
                ],
                stdout=log_file, stderr=log_file,
            )  # fmt: skip
        return self._process.pid

    def kill(self) -> None:
        """As a crash."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(10)

    def stop(self) -> int:
        """As an operator; the exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(15)

    def close(self) -> None:
        """Leave nothing."""
        if self._process is not None and self._process.poll() is None:
            self.kill()
        for pid in shim_pids(self.state):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + 20
        while not _remove_cgroups():
            assert time.monotonic() < deadline, f"cgroups below {CGROUP} do not go"
            time.sleep(0.05)
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            if str(self.state) in (target := line.split()[4]):
                subprocess.run(["umount", "-l", target], check=False)
        self._holder.kill()
        self._holder.wait(5)
        subprocess.run(["ip", "link", "del", UPLINK], check=False, capture_output=True)


def _remove_cgroups() -> bool:
    """True once nothing of the test's cgroups is left; ends what still runs in them."""
    roots = [p for p in Path("/sys/fs/cgroup").glob(f"*{CGROUP}") if p.is_dir()]
    for root in [*roots, Path(f"/sys/fs/cgroup{CGROUP}")]:
        for directory in [*sorted((d for d in root.rglob("*") if d.is_dir()), reverse=True), root]:
            with contextlib.suppress(OSError):
                for pid in (directory / "cgroup.procs").read_text().split():
                    os.kill(int(pid), signal.SIGKILL)
                directory.rmdir()
    return not any(root.exists() for root in roots)


def shim_pids(state: Path) -> list[int]:
    """Processes whose working directory or command line is below the state directory."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                where = os.readlink(entry / "cwd")
                line = (entry / "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue
            if str(state) in where or str(state) in line:
                found.append(int(entry.name))
    return found


def _import_image(root: Path) -> None:
    """A busybox image as if it had been pulled."""
    content = Content(root)
    diff = hashlib.sha256(b"busybox").hexdigest()
    layer = content.layer(f"sha256:{diff}")
    for name in ("bin", "dev", "proc", "sys", "tmp", "etc", "www"):
        (layer / name).mkdir(parents=True, exist_ok=True)
    layer.chmod(0o755)
    shutil.copy("/bin/busybox", layer / "bin/busybox")
    for applet in APPLETS:
        (layer / "bin" / applet).symlink_to("busybox")
    (layer / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\nweb:x:101:101::/www:/bin/sh\n")
    (layer / "www/index.html").write_text("hello\n")
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Cmd": ["sleep", "1000"], "Env": ["PATH=/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{diff}"]},
        }
    ).encode()
    config_digest = f"sha256:{hashlib.sha256(config).hexdigest()}"
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": config_digest,
                "size": len(config),
            },
            "layers": [
                {
                    "mediaType": "application/vnd.oci.image.layer.v1.tar",
                    "digest": f"sha256:{diff}",
                    "size": 1,
                }
            ],
        }
    ).encode()
    digest = f"sha256:{hashlib.sha256(manifest).hexdigest()}"
    content.put_blob(config_digest, config)
    content.put_blob(digest, manifest)
    content.set_references({IMAGE: digest})


def an_assignment(
    uid: str = "t1",
    *,
    desired: DesiredState = DesiredState.RUNNING,
    publish: int = 0,
    slot: int = 1,
    secrets: dict[str, bytes] | None = None,
    **template: Any,
) -> Assignment:
    """A busybox task."""
    ports = (Port(name="http", container=80, publish=publish),) if publish else ()
    return Assignment(
        task=Task(
            namespace="prod",
            service="web",
            service_uid="s1",
            slot=slot,
            attempt=1,
            uid=uid,
            generation=1,
            template_hash="h",
            desired=desired,
            node="h1",
            ports=tuple(
                PublishedPort(name=p.name, container=p.container, host=p.publish) for p in ports
            ),
        ),
        template=TaskTemplate(image=IMAGE, ports=ports, **template),
        secrets=secrets or {},
    )
