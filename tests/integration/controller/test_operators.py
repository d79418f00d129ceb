"""What operators do, through the client, against a real controller on a real etcd."""

from __future__ import annotations

import asyncio

import pytest

from bayplan.client import Client, Credentials
from bayplan.model.errors import Conflict, InvalidSpec, NotFound, PermissionDenied
from bayplan.wire._pb.bayplan.v1 import control_pb2 as control
from bayplan.wire._pb.bayplan.v1 import dispatcher_pb2 as dispatcher
from bayplan.wire._pb.bayplan.v1 import types_pb2
from tests.integration.controller.running import Running, a_service, a_user, applying


async def test_version_names_the_caller_and_the_leader(running: Running) -> None:
    """The first thing a client asks."""
    async with running.client() as client, asyncio.timeout(10):
        while not (answer := await client.get_version()).leader_address:
            await asyncio.sleep(0.05)
    assert answer.caller.name == "admin"
    assert answer.leader_address == running.addresses["control"]
    assert answer.etcd_version.startswith("3.")


async def test_life_of_a_service(running: Running) -> None:
    """Apply, scale, update, roll back, restart, stop, start and delete, each with its effect."""
    async with running.client() as client:
        made = await client.apply(applying(a_service("life")))
        assert [(c.action, c.effect) for c in made.changes] == [("create", "starts 2 tasks")]
        again = await client.apply(applying(a_service("life")))
        assert [(c.action, c.generation) for c in again.changes] == [("unchanged", 1)]
        scaled = await client.scale("default", "life", 3)
        assert list(scaled.changes[0].summary) == ["replicas: 2 -> 3"]
        kept = await client.apply(applying(a_service("life", image="web:2", replicas=None)))
        assert list(kept.changes[0].summary) == ["image: web:1 -> web:2"]
        view = await client.get_service("default", "life", min_revision=kept.revision)
        assert (view.service.replicas, view.service.generation) == (3, 2)
        before = view.service.template_hash
        back = await client.rollback("default", "life")
        assert "image: web:2 -> web:1" in back.changes[0].summary
        again = await client.restart("default", "life")
        view = await client.get_service("default", "life", min_revision=again.revision)
        assert view.service.generation == 4
        assert view.service.template_hash != before
        stopped = await client.stop("default", "life")
        view = await client.get_service("default", "life", min_revision=stopped.revision)
        assert (view.status, view.replicas_desired) == ("stopped", 0)
        await client.start("default", "life")
        versions = await client.list_versions("default", "life")
        assert [v.cause for v in versions] == ["restart", "rollback", "apply", "apply"]
        await client.delete_service("default", "life")
        async with asyncio.timeout(10):
            while any(v.service.name == "life" for v in await client.list_services()):
                await asyncio.sleep(0.05)


async def test_pending_tasks_say_why(running: Running) -> None:
    """Without a node there is a reason, in one sentence."""
    async with running.client() as client:
        await client.apply(applying(a_service("waits")))
        async with asyncio.timeout(10):
            async for view in client.watch_service("default", "waits"):
                if any("no node" in t.why for t in view.tasks):
                    break
        assert view.status == "pending"


async def test_dry_run_changes_nothing(running: Running) -> None:
    """It says the same as the real thing."""
    async with running.client() as client:
        said = await client.apply(applying(a_service("dry"), dry_run=True))
        assert said.changes[0].action == "create"
        with pytest.raises(NotFound, match="there is no service dry in namespace default"):
            await client.get_service("default", "dry")


async def test_all_or_nothing(running: Running) -> None:
    """One bad document, and none takes effect; all problems are told at once."""
    bad = a_service("BAD NAME")
    bad.service.template.env.add(name="PASSWORD").secret.name = "nope"
    async with running.client() as client:
        with pytest.raises(InvalidSpec) as refused:
            await client.apply(applying(a_service("good"), bad))
        assert "BAD NAME" in refused.value.message
        assert "there is no secret nope" in refused.value.message
        with pytest.raises(NotFound):
            await client.get_service("default", "good")


async def test_secrets_never_come_back(running: Running) -> None:
    """Keys are listed, values are not; a secret in use cannot be deleted; etcd holds it sealed."""
    secret = control.Document(
        secret=types_pb2.Secret(
            namespace="default", name="db", values={"password": b"hunter2-hunter2"}
        )
    )
    user = a_service("uses-db")
    variable = user.service.template.env.add(name="PASSWORD")
    variable.secret.name, variable.secret.key = "db", "password"
    async with running.client() as client:
        await client.apply(applying(secret, user))
        (view,) = [s for s in await client.list_secrets() if s.name == "db"]
        assert (list(view.keys), list(view.used_by), view.version) == (["password"], ["uses-db"], 1)
        with pytest.raises(Conflict, match="used by uses-db"):
            await client.delete_secret("default", "db")
        secret.secret.values["password"] = b"correct horse"
        changed = await client.apply(applying(secret))
        assert list(changed.changes[0].summary) == ["password: changed"]
        assert "bay restart uses-db" in changed.changes[0].effect
        pruned = await client.apply(
            control.ApplyRequest(documents=[secret], prune_namespaces=["nowhere"])
        )
        assert [c.action for c in pruned.changes] == ["unchanged"]
    found = [p for p in running.state.rglob("*") if p.is_file()]
    assert not [p for p in found if b"hunter2-hunter2" in p.read_bytes()]


async def test_only_administrators_change_quotas(running: Running) -> None:
    """Anybody sees them, an operator may apply one as it is already, and a plan is no change."""
    credentials = await a_user(running, "otto", types_pb2.ROLE_OPERATOR)
    source = "kind: Quota\nname: limit\nlimits: {tasks: 2}\n"
    spec = types_pb2.QuotaSpec(namespace="quoted", name="limit", tasks=2)
    quota = control.Document(quota=spec, source=source)
    async with running.client(credentials) as operator, running.client() as admin:
        for order in (applying(quota), applying(quota, dry_run=True)):
            with pytest.raises(PermissionDenied, match="otto cannot set a quota: it needs the"):
                await operator.apply(order)
        made = await admin.apply(applying(quota))
        assert [(c.kind, c.action) for c in made.changes] == [("Quota", "create")]
        same = await operator.apply(applying(quota))
        assert [c.action for c in same.changes] == ["unchanged"]
        (view,) = await operator.list_quotas("quoted")
        assert (view.quota.source, view.quota.updated_by, view.tasks_used) == (source, "admin", 0)
        with pytest.raises(PermissionDenied, match="it needs the role admin"):
            await operator.delete_quota("quoted", "limit")
        await admin.delete_quota("quoted", "limit")
        assert await operator.list_quotas() == []


async def test_viewer_reads_and_cannot_apply(running: Running) -> None:
    """The refusal names who, what is missing and how to get it; a change of role holds at once."""
    credentials = await a_user(running, "vera", types_pb2.ROLE_VIEWER)
    async with running.client(credentials) as viewer, running.client() as admin:
        await viewer.list_services()
        with pytest.raises(PermissionDenied) as refused:
            await viewer.apply(applying(a_service("nope")))
        assert refused.value.message == (
            "vera (viewer) cannot call Apply: it needs the role operator"
        )
        assert "bay user add vera --role operator" in refused.value.hint
        request = control.SetIdentityRequest(name="vera", role=types_pb2.ROLE_OPERATOR)
        await admin.set_identity(request)
        await viewer.apply(applying(a_service("veras")))


async def test_operator_needs_the_grant_to_exec(running: Running) -> None:
    """Without it, refused; with it, the call gets as far as the task."""
    plain = await a_user(running, "otto", types_pb2.ROLE_OPERATOR)
    granted = await a_user(running, "olga", types_pb2.ROLE_OPERATOR, grant_exec=True)

    async def inputs() -> object:
        start = dispatcher.ExecStart(namespace="default", task="none.1.1", command=["true"])
        yield dispatcher.ExecInput(start=start)

    async def execute(credentials: Credentials) -> None:
        async with running.client(credentials) as client:
            async for _ in client.exec(inputs()):  # type: ignore[arg-type]
                pass

    with pytest.raises(PermissionDenied, match="needs the grant exec"):
        await execute(plain)
    with pytest.raises(NotFound, match="there is no task"):
        await execute(granted)


async def test_removed_identity_is_out_at_once(running: Running) -> None:
    """Its next call is refused, and a stream it has open ends."""
    credentials = await a_user(running, "rita", types_pb2.ROLE_VIEWER)
    async with running.client(credentials) as rita, running.client() as admin:
        events = rita.list_events(control.ListEventsRequest(follow=True))
        await anext(events)

        async def follow() -> None:
            async for _ in events:
                pass

        following = asyncio.create_task(follow())
        await admin.remove_identity("rita")
        with pytest.raises(PermissionDenied, match="there is no identity rita"):
            async with asyncio.timeout(5):
                await following
        with pytest.raises(PermissionDenied):
            await rita.list_services()


async def test_last_administrator_stays(running: Running) -> None:
    """Nobody can lock everybody out."""
    async with running.client() as admin:
        with pytest.raises(Conflict, match="last administrator"):
            await admin.remove_identity("admin")


async def test_client_needs_a_certificate_of_the_cluster(running: Running, own: Running) -> None:
    """Credentials of another cluster do not get past the handshake."""
    own.start()
    stranger = own.admin
    mixed = Credentials(
        ca_pem=running.admin.ca_pem,
        certificate_pem=stranger.certificate_pem,
        key_pem=stranger.key_pem,
    )
    address = running.addresses["control"]
    from bayplan.model.errors import Unavailable

    with pytest.raises(Unavailable):
        async with Client([address], mixed, patience_s=0.5) as client:
            await client.get_version()


async def test_operator_renews_its_certificate(running: Running) -> None:
    """With the same key, and the new certificate works."""
    from bayplan import pki

    credentials = await a_user(running, "rena", types_pb2.ROLE_VIEWER)
    async with running.client(credentials) as client:
        csr = pki.make_csr(credentials.key_pem.encode(), "rena")
        answer = await client.renew_certificate(csr)
    renewed = Credentials(
        ca_pem=answer.ca_certificate_pem,
        certificate_pem=answer.certificate_pem,
        key_pem=credentials.key_pem,
    )
    async with running.client(renewed) as client:
        assert (await client.get_version()).caller.name == "rena"
