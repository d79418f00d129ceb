"""Setting quotas, and saying at once what of a change they keep waiting. Pure, as `intent`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from bayplan.model.errors import NotFound, PermissionDenied
from bayplan.model.quota import Quota, QuotaSpec
from bayplan.model.service import Service, UpdateStrategy
from bayplan.model.workload import WorkloadKind
from bayplan.wire._pb.bayplan.v1 import control_pb2 as control
from controller.scheduler import Line, Quotas, quota_lines, quota_specs, quota_usage
from controller.scheduler.quota import lines_of
from controller.server import kinds
from controller.server.intent import Desk, Outcome, event, said
from controller.store.base import Changes, Delete, Key, Kind, Put, Tables


def apply_quota(desk: Desk, spec: QuotaSpec, source: str) -> tuple[Changes, control.Change]:
    """Raises PermissionDenied where it changes something, and the caller is no administrator."""
    key = (spec.namespace, spec.name)
    stored = desk.tables.quotas.get(key)
    before = stored.value.spec if stored is not None else None
    if stored is not None and spec == before and source == stored.value.source:
        return (), said("Quota", key, "unchanged", generation=stored.value.version)
    _administrator(desk, "set")
    same = stored is not None and spec == before
    version = 1 if stored is None else stored.value.version + (not same)
    quota = Quota(
        namespace=spec.namespace,
        name=spec.name,
        spec=spec,
        version=version,
        source=source,
        updated_at=desk.now,
        updated_by=desk.caller,
    )
    put = Put(Kind.QUOTA, key, quota, stored.mod_revision if stored else 0)
    if same:  # but for comments and blanks
        return (put,), said("Quota", key, "unchanged", generation=version)
    summary = _summary(before, spec)
    text = f"{'updated' if stored else 'created'} by {desk.caller}: {', '.join(summary)}"
    changes = (put, event(desk, "quota", *key, "Updated" if stored else "Created", text))
    return changes, said(
        "Quota",
        key,
        "update" if stored else "create",
        summary=summary,
        effect=_effect(desk.tables, spec),
        generation=version,
    )


def delete_quota(desk: Desk, namespace: str, name: str) -> Outcome:
    """Raises NotFound, PermissionDenied."""
    key = (namespace, name)
    stored = desk.tables.quotas.get(key)
    if stored is None:
        raise NotFound(
            f"there is no quota {name} in namespace {namespace}",
            hint=f"`bay get quotas -n {namespace}` lists what there is",
        )
    _administrator(desk, "remove")
    changes = (
        Delete(Kind.QUOTA, key, stored.mod_revision),
        event(desk, "quota", *key, "Deleted", f"by {desk.caller}"),
    )
    return Outcome(changes, (said("Quota", key, "delete"),))


def _administrator(desk: Desk, verb: str) -> None:
    if not desk.admin:
        raise PermissionDenied(
            f"{desk.caller} cannot {verb} a quota: it needs the role admin",
            hint="ask an administrator, or apply the other documents without it",
        )


def _summary(before: QuotaSpec | None, after: QuotaSpec) -> list[str]:
    was = {line.key: line for line in lines_of(before)} if before is not None else {}
    now = {line.key: line for line in lines_of(after)}
    said_of = []
    for key in [*now, *(k for k in was if k not in now)]:
        old, new = was.get(key), now.get(key)
        if new is None and old is not None:
            said_of.append(f"{old.name}: removed (was {old.show(old.limit)})")
        elif new is not None and old is None:
            head = f"{new.name}: " if before is None else f"{new.name}: added: "
            said_of.append(head + new.show(new.limit))
        elif new is not None and old is not None and new.limit != old.limit:
            said_of.append(f"{new.name}: {old.show(old.limit)} -> {new.show(new.limit)}")
    return said_of


def _effect(tables: Tables, spec: QuotaSpec) -> str:
    """Where more is used than is allowed."""
    room = quota_usage(tables, {spec.namespace}).room(spec.namespace, [spec])
    over = [line for line in quota_lines(room) if line.used > line.limit]
    if not over:
        return "stops nothing"
    shown = ", ".join(f"{_named(n, n.used)} of {n.show(n.limit)}" for n in over)
    return f"stops nothing; nothing more starts in {spec.namespace}: it holds {shown}"


def _named(line: Line, amount: int) -> str:
    return f"{line.name} {line.show(amount)}"


# -- what has to wait --


def tell(desk: Desk, outcome: Outcome) -> Outcome:
    """The outcome, with what of it has to wait in what is said of each workload."""
    written = [c.value for c in outcome.changes if isinstance(c, Put) and c.kind is Kind.SERVICE]
    quotas = [c.value.spec for c in outcome.changes if isinstance(c, Put) and c.kind is Kind.QUOTA]
    waits = held_back(desk.tables, written, quotas)
    for change in outcome.said:
        text = waits.get((change.namespace, change.name))
        if text is not None and change.kind != "Quota":
            change.effect = "; ".join(filter(None, (change.effect, text)))
    return outcome


def held_back(
    tables: Tables, written: Iterable[Service], quotas: Sequence[QuotaSpec] = ()
) -> Mapping[Key, str]:
    """By workload as it is now written: how many of the tasks that this starts have to wait, and
    for what; nothing where none has to. `quotas`: those that are written with them. Reckoned from
    what is held now, one workload after the other; what ends at the same time is not counted."""
    specs = quota_specs(tables)
    for spec in quotas:
        others = [s for s in specs.get(spec.namespace, []) if s.name != spec.name]
        specs[spec.namespace] = [*others, spec]
    concerned = [s for s in written if s.namespace in specs and not s.stopped and not s.deleting]
    if not concerned:
        return {}
    used = quota_usage(tables, {s.namespace for s in concerned})
    left = Quotas({name: used.room(name, found) for name, found in specs.items()})
    found: dict[Key, str] = {}
    for service in concerned:
        template, more = service.spec.template, _more(tables, service)
        allowed, short = left.short(service.namespace, template, more)
        left.use(service.namespace, template, allowed)
        if short is not None:
            rest = more - allowed
            waits = f"{rest} of {more} {'waits' if rest == 1 else 'wait'}"
            waits = "it waits" if more == 1 else waits
            found[service.namespace, service.name] = f"{waits}: {short.sentence}"
    return found


def _more(tables: Tables, service: Service) -> int:
    """Tasks that a workload as it is now written starts beside those it has at first."""
    old = tables.services.get((service.namespace, service.name))
    spec = service.spec
    if spec.kind is WorkloadKind.CRON:
        return 0
    if spec.kind is WorkloadKind.JOB:
        begins = old is None or old.value.run_generation != service.run_generation
        return min(spec.job.parallelism, spec.job.completions) if spec.job and begins else 0
    if spec.kind is WorkloadKind.DAEMON:
        return len(kinds.reached(tables, spec)) if old is None else 0
    if old is None or old.value.stopped:
        return service.replicas
    grown = max(0, service.replicas - old.value.replicas)
    if old.value.template_hash == service.template_hash or not old.value.replicas:
        return grown
    if spec.update.strategy is UpdateStrategy.BLUE_GREEN:
        return service.replicas
    return grown + spec.update.max_surge
