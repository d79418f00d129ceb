"""What operators' verbs change: decided from tables, without a store."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from bayplan import pki
from bayplan.model.errors import Conflict, InvalidSpec, NotFound
from bayplan.model.resources import Resources
from bayplan.model.secret import Secret
from bayplan.model.service import (
    EnvVar,
    Rollout,
    RolloutState,
    SecretReference,
    Service,
    ServiceSpec,
    TaskTemplate,
    UpdatePolicy,
)
from controller.server import intent, people
from controller.server.applying import Wanted, apply
from controller.server.intent import Desk, Outcome
from controller.server.parts import apart
from controller.store.base import OPERATIONS_MAX, Delete, Kind, Put, Require, Stored, Tables

VAULT = pki.KeyEncryptionKey(b"k" * 32)
NOW = 1_000.0


def a_spec(image: str = "web:1", replicas: int | None = None, **more: Any) -> ServiceSpec:
    return ServiceSpec(name="web", template=TaskTemplate(image=image), replicas=replicas, **more)


def a_desk(tables: Tables | None = None) -> Desk:
    return Desk(tables=tables or Tables(), caller="ada", now=NOW, new_uid=lambda: "u1")


def after(tables: Tables, outcome: Outcome) -> Tables:
    """The tables with the changes in them, at the next revision."""
    revision = tables.revision + 1
    made: dict[str, Any] = {"revision": revision}
    for kind in Kind:
        made[kind.value] = dict(tables.of(kind))
    for change in outcome.changes:
        table = made[change.kind.value]
        match change:
            case Put(_, key, value, expect):
                there = table[key].mod_revision if key in table else 0
                assert expect in (None, there), f"{key} expects {expect}, is at {there}"
                table[key] = Stored(value, revision)
            case Delete(_, key, _):
                table.pop(key)
            case Require(_, key, expect):
                assert table[key].mod_revision == expect
    return Tables(**made)


def applied(*specs: ServiceSpec) -> Tables:
    """Tables after these specs were applied one after another."""
    tables = Tables(revision=1)
    for spec in specs:
        tables = after(tables, apply(a_desk(tables), VAULT, [Wanted(spec)], ()))
    return tables


def service_of(tables: Tables) -> Service:
    return tables.services["default", "web"].value


def apply_again(tables: Tables, spec: ServiceSpec) -> Outcome:
    return apply(a_desk(tables), VAULT, [Wanted(spec)], ())


def test_new_service_has_one_replica_and_a_version() -> None:
    """Replicas left out mean one; the version is kept beside the service."""
    tables = applied(a_spec())
    assert (service_of(tables).replicas, service_of(tables).generation) == (1, 1)
    assert tables.versions["default", "web.1"].value.spec == a_spec()


def test_unchanged_is_no_new_version() -> None:
    """The same spec again commits nothing at all."""
    outcome = apply_again(applied(a_spec()), a_spec())
    assert outcome.changes == ()
    assert [c.action for c in outcome.said] == ["unchanged"]


def test_only_comments_changed() -> None:
    """What was typed is kept up to date without a new version."""
    tables = applied(a_spec())
    outcome = apply(a_desk(tables), VAULT, [Wanted(a_spec(), "# new")], ())
    assert service_of(after(tables, outcome)).source == "# new"
    assert service_of(after(tables, outcome)).generation == 1


def test_scaled_value_is_kept() -> None:
    """A spec without replicas keeps what `scale` set; one with replicas sets it."""
    tables = applied(a_spec())
    tables = after(tables, intent.scale(a_desk(tables), "default", "web", 7))
    kept = after(tables, apply_again(tables, a_spec("web:2")))
    assert service_of(kept).replicas == 7
    assert service_of(after(kept, apply_again(kept, a_spec("web:2", 2)))).replicas == 2


def test_policy_change_restarts_nothing() -> None:
    """The hash changes with the template only, also after a restart salted it."""
    tables = applied(a_spec())
    tables = after(tables, intent.restart(a_desk(tables), "default", "web"))
    salted = service_of(tables).template_hash
    outcome = apply_again(tables, a_spec(update=UpdatePolicy(max_surge=3)))
    assert outcome.said[0].effect == "restarts nothing"
    assert list(outcome.said[0].summary) == ["update max_surge: 1 -> 3"]
    changed = service_of(after(tables, outcome))
    assert (changed.template_hash, changed.generation) == (salted, 3)


def test_hash_is_of_the_template_alone() -> None:
    """Deterministic, and different for another template or salt."""
    template = TaskTemplate(image="web:1", env=(EnvVar(name="A", value="1"),))
    assert intent.template_hash(template) == intent.template_hash(replace(template))
    assert intent.template_hash(template) != intent.template_hash(replace(template, image="w:2"))
    assert intent.template_hash(template) != intent.template_hash(template, "restart")


def test_rollback_takes_the_hash_along() -> None:
    """Tasks of the old version that still run are tasks of the newest one again."""
    tables = applied(a_spec("web:1"), a_spec("web:2"))
    back = after(tables, intent.rollback(a_desk(tables), "default", "web", 0))
    assert service_of(back).spec.template.image == "web:1"
    assert service_of(back).template_hash == intent.template_hash(TaskTemplate(image="web:1"))
    assert service_of(back).generation == 3
    with pytest.raises(NotFound, match="has no v9 to go back to"):
        intent.rollback(a_desk(tables), "default", "web", 9)


def test_a_rollback_does_not_lead_to_what_has_just_failed() -> None:
    """Typed after a version was rolled back by itself, it asks which one is meant."""
    tables = applied(a_spec("web:1"), a_spec("web:2"), a_spec("web:1"))
    rollout = Rollout(
        namespace="default",
        service="web",
        from_generation=2,
        to_generation=3,
        state=RolloutState.ROLLED_BACK,
        going_back=True,
    )
    tables = replace(tables, rollouts={("default", "web"): Stored(rollout, 1)})
    with pytest.raises(Conflict, match="v3 is the rollback of v2 already, which failed"):
        intent.rollback(a_desk(tables), "default", "web", 0)
    back = after(tables, intent.rollback(a_desk(tables), "default", "web", 2))
    assert service_of(back).spec.template.image == "web:2"


def test_summary_says_old_and_new() -> None:
    """Named entries are compared by name; amounts are in the units people write."""
    old = a_spec()
    template = TaskTemplate(
        image="web:1",
        env=(EnvVar(name="MODE", value="fast"),),
        resources=Resources(cpu_millis=500, memory_bytes=512 << 20),
    )
    outcome = apply_again(applied(old), replace(old, template=template))
    assert list(outcome.said[0].summary) == [
        "env MODE: added: fast",
        "resources cpu: 0 -> 0.5",
        "resources memory: 0 -> 512MiB",
    ]
    assert outcome.said[0].effect == "replaces nothing: there is no task of another version"


def test_service_that_is_being_deleted_cannot_be_applied() -> None:
    """The name is free only once its tasks are gone."""
    tables = applied(a_spec())
    tables = after(tables, intent.delete_service(a_desk(tables), "default", "web"))
    with pytest.raises(Conflict, match="is being deleted"):
        apply_again(tables, a_spec())


def test_unknown_service_hints_at_its_namespace() -> None:
    """A name that exists elsewhere is found."""
    with pytest.raises(NotFound) as missing:
        intent.scale(a_desk(applied(a_spec())), "prod", "web", 1)
    assert missing.value.hint == "there is one in namespace default: give -n default"


def with_secret(values: dict[str, bytes]) -> Wanted:
    return Wanted(Secret(namespace="default", name="db", values=values))


def a_user_of(key: str) -> ServiceSpec:
    reference = SecretReference(name="db", key=key)
    return a_spec_with(EnvVar(name="PASSWORD", secret=reference))


def a_spec_with(variable: EnvVar) -> ServiceSpec:
    return ServiceSpec(name="web", template=TaskTemplate(image="web:1", env=(variable,)))


def test_secret_and_its_user_in_one_apply() -> None:
    """A reference is satisfied by the same documents, and what is stored is sealed."""
    documents = [Wanted(a_user_of("password")), with_secret({"password": b"hunter2"})]
    tables = after(Tables(), apply(a_desk(), VAULT, documents, ()))
    stored = tables.secrets["default", "db"].value
    assert b"hunter2" not in stored.sealed["password"]
    context = intent.secret_context("default", "db", "password")
    assert VAULT.open(stored.sealed["password"], context) == b"hunter2"


def test_missing_keys_are_told_with_what_there_is() -> None:
    """A wrong key names the right ones."""
    documents = [Wanted(a_user_of("pasword")), with_secret({"password": b"x"})]
    with pytest.raises(InvalidSpec, match="has no key 'pasword'; it has password"):
        apply(a_desk(), VAULT, documents, ())


def test_apply_holds_on_to_the_secret_it_looked_at() -> None:
    """If it is deleted in between, the service is not written."""
    tables = after(Tables(), apply(a_desk(), VAULT, [with_secret({"password": b"x"})], ()))
    outcome = apply_again(tables, a_user_of("password"))
    assert Require(Kind.SECRET, ("default", "db"), tables.revision) in outcome.changes


def test_prune_deletes_what_is_not_named() -> None:
    """Only in the namespaces given, and not a secret that is still used."""
    documents = [Wanted(a_user_of("password")), with_secret({"password": b"x"})]
    tables = after(Tables(), apply(a_desk(), VAULT, documents, ()))
    with pytest.raises(Conflict, match="would be pruned but is used by web"):
        apply(a_desk(tables), VAULT, documents[:1], ("default",))
    outcome = apply(a_desk(tables), VAULT, [], ("default",))
    assert [(c.kind, c.action) for c in outcome.said] == [
        ("Service", "delete"),
        ("Secret", "delete"),
    ]


def test_the_same_act_again_raises_one_events_count() -> None:
    """Events fold."""
    tables = applied(a_spec())
    for _ in range(2):
        tables = after(tables, intent.set_stopped(a_desk(tables), "default", "web", True))
        tables = after(tables, intent.set_stopped(a_desk(tables), "default", "web", False))
    counts = {s.value.reason: s.value.count for s in tables.events.values()}
    assert (counts["Stopped"], counts["Started"]) == (2, 2)


def test_token_lives_an_hour_at_most() -> None:
    """And an operator's needs somebody to log in as."""
    token = pki.Token("a" * 8, "b" * 32, "c" * 52)
    with pytest.raises(InvalidSpec, match="cannot live 3601 s"):
        people.create_token(a_desk(), token, people.TokenPurpose.NODE, "", 3601)
    with pytest.raises(NotFound, match="there is no identity eve"):
        people.create_token(a_desk(), token, people.TokenPurpose.OPERATOR, "eve", 60)
    outcome, expires_at = people.create_token(a_desk(), token, people.TokenPurpose.NODE, "", 0)
    (put,) = [c for c in outcome.changes if c.kind is Kind.TOKEN]
    assert isinstance(put, Put)
    assert token.secret not in repr(put)
    assert expires_at == NOW + people.TOKEN_LIFETIME_S


def test_events_follow_where_one_transaction_is_too_small() -> None:
    """63 services still take effect together."""
    specs = [ServiceSpec(name=f"s{i}", template=TaskTemplate(image="web:1")) for i in range(63)]
    outcome = apply(a_desk(), VAULT, [Wanted(s) for s in specs], ())
    together, events = apart(outcome.changes)
    assert len(together) == 126 <= OPERATIONS_MAX
    assert {c.kind for c in events} == {Kind.EVENT}
    assert apart(together) == (together, ())
