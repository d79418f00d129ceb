"""From the fields an operator wrote to frozen values of the domain."""

from __future__ import annotations

import base64
import binascii
import os
import stat
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from bayplan.model.quota import QuotaSpec
from bayplan.model.resources import Resources
from bayplan.model.secret import Secret
from bayplan.model.service import (
    Affinity,
    DeviceRequest,
    DisruptionBudget,
    EnvVar,
    ExecCheck,
    Fencing,
    HealthCheck,
    HttpCheck,
    Logging,
    LogPolicy,
    Mount,
    MountKind,
    Placement,
    Port,
    Portion,
    Preference,
    RestartCondition,
    RestartPolicy,
    SecretFile,
    SecretReference,
    ServiceSpec,
    Spread,
    StopPolicy,
    TaskTemplate,
    TcpCheck,
    Toleration,
    UpdatePolicy,
)
from bayplan.model.validate import SECRET_VALUE_BYTES_MAX, Problem
from bayplan.model.workload import CronPolicy, JobPolicy, WorkloadKind
from bayplan.spec.fields import (
    CronFields,
    DaemonFields,
    DaemonUpdateFields,
    DisruptionFields,
    FencingFields,
    HealthFields,
    JobFields,
    LogFields,
    MountFields,
    PortFields,
    QuotaFields,
    ResourceFields,
    SecretFields,
    ServiceFields,
    TaskFields,
    UpdateFields,
)
from bayplan.spec.placing import AffinityFields, PlacementFields
from bayplan.spec.problems import shorten


def workload(fields: TaskFields, namespace: str) -> tuple[ServiceSpec, list[Problem]]:
    """The spec, and what only shows once fields are seen together."""
    problems: list[Problem] = []
    spec = ServiceSpec(
        kind=WorkloadKind(fields.kind),
        name=fields.name,
        namespace=fields.namespace or namespace,
        labels=dict(fields.labels),
        template=_template(fields, problems),
        placement=_placement(fields.placement),
        priority=fields.priority,
    )
    match fields:
        case ServiceFields():
            update = _update(fields.update, fields.replicas, problems)
            spec = replace(
                spec,
                template=replace(spec.template, fencing=_fencing(fields.fencing)),
                replicas=fields.replicas,
                update=update,
                disruption=_disruption(fields.disruption),
                **_given(node_loss_grace_s=fields.node_loss_grace),
            )
        case DaemonFields():
            spec = replace(spec, update=_daemon_update(fields.update))
        case CronFields():
            spec = replace(spec, job=_job(fields, suspend=False), cron=_cron(fields))
        case JobFields():
            spec = replace(spec, job=_job(fields, suspend=fields.suspend))
    return spec, problems


def _job(fields: JobFields, *, suspend: bool) -> JobPolicy:
    given = _given(
        completions=fields.completions,
        parallelism=fields.parallelism,
        retries=fields.retries,
        retry_delay_s=fields.retry_delay,
        retry_max_delay_s=fields.retry_max_delay,
        deadline_s=fields.deadline,
        ttl_s=fields.ttl,
    )
    if "retry_max_delay_s" not in given:
        longest = max(given.get("retry_delay_s", 0.0), JobPolicy().retry_max_delay_s)
        given["retry_max_delay_s"] = longest
    return JobPolicy(**given, suspend=suspend)


def _cron(fields: CronFields) -> CronPolicy:
    return CronPolicy(
        schedule=" ".join(fields.schedule.split()),
        suspend=fields.suspend,
        **_given(
            time_zone=fields.time_zone,
            overlap=fields.overlap,
            start_deadline_s=fields.start_deadline,
            keep_complete=fields.keep_complete,
            keep_failed=fields.keep_failed,
        ),
    )


def _daemon_update(fields: DaemonUpdateFields) -> UpdatePolicy:
    return UpdatePolicy(
        max_surge=0,
        max_unavailable=1 if fields.max_unavailable is None else fields.max_unavailable,
        **_given(
            monitor_s=fields.monitor,
            progress_deadline_s=fields.progress_deadline,
            on_failure=fields.on_failure,
            promote_after_s=fields.promote_after,
        ),
        canary=_portion(fields.canary),
        pause_after=tuple(p for t in fields.pause_after if (p := _portion(t)) is not None),
    )


def _disruption(fields: DisruptionFields | None) -> DisruptionBudget | None:
    if fields is None:
        return None
    return DisruptionBudget(
        max_unavailable=_portion(fields.max_unavailable),
        min_available=_portion(fields.min_available),
    )


def _fencing(fields: FencingFields | None) -> Fencing | None:
    return None if fields is None else Fencing(**_given(lease_s=fields.lease))


def _log(fields: LogFields) -> Logging | None:
    """None for the default, also where it was written out: that shall restart nobody."""
    return None if fields.policy is LogPolicy.DROP else Logging(policy=fields.policy)


def _portion(text: str | None) -> Portion | None:
    if text is None:
        return None
    return Portion(percent=int(text[:-1])) if text.endswith("%") else Portion(count=int(text))


def _template(fields: TaskFields, problems: list[Problem]) -> TaskTemplate:
    return TaskTemplate(
        image=fields.image,
        command=tuple(fields.command),
        args=tuple(fields.args),
        env=_env(fields, problems),
        working_dir=fields.working_dir or "",
        user=fields.user or "",
        hostname=fields.hostname or "",
        stdin=fields.stdin,
        tty=fields.tty,
        resources=_resources(fields.resources, problems),
        ports=tuple(_port(name, port, problems) for name, port in fields.ports.items()),
        network=fields.network,
        user_namespace=fields.userns,
        cap_add=tuple(fields.capabilities.add),
        cap_drop=tuple(fields.capabilities.drop),
        read_only_rootfs=fields.read_only,
        mounts=_mounts(fields.mounts, problems),
        files=tuple(
            SecretFile(path=p, secret=_reference(f.secret), mode=f.mode, uid=f.uid, gid=f.gid)
            for p, f in fields.files.items()
        ),
        health=_health(fields.health) if fields.health else None,
        restart=_restart(fields),
        stop=StopPolicy(**_given(signal=fields.stop.signal, grace_s=fields.stop.grace)),
        devices=tuple(
            DeviceRequest(name=n, millis=d.count, model=d.model or "")
            for n, d in fields.resources.devices.items()
        ),
        log=_log(fields.log),
    )


def _given(**values: Any) -> dict[str, Any]:
    """Without what was left out, so that the model's defaults stand in one place."""
    return {name: value for name, value in values.items() if value is not None}


def _reference(text: str) -> SecretReference:
    name, key = text.split("/")
    return SecretReference(name=name, key=key)


def _env(fields: TaskFields, problems: list[Problem]) -> tuple[EnvVar, ...]:
    variables = []
    for name, entry in fields.env.items():
        if (entry.value is None) == (entry.secret is None):
            problems.append(
                Problem(
                    ("env", name), "wants a value or a secret; write text or {secret: NAME/KEY}"
                )
            )
            continue
        secret = _reference(entry.secret) if entry.secret is not None else None
        variables.append(EnvVar(name=name, value=entry.value or "", secret=secret))
    return tuple(variables)


def _resources(fields: ResourceFields, problems: list[Problem]) -> Resources:
    problems += [
        Problem(("resources", name), "must be more than 0; leave it out for no limit")
        for name in ("cpu", "memory", "pids", "disk")
        if getattr(fields, name) == 0
    ]
    return Resources(
        cpu_millis=fields.cpu or 0,
        memory_bytes=fields.memory or 0,
        pids=fields.pids or 0,
        disk_bytes=fields.disk or 0,
    )


def _port(name: str, fields: PortFields, problems: list[Problem]) -> Port:
    if fields.publish == 0:
        problems.append(
            Problem(("ports", name, "publish"), "0 is not a port; write 1 to 65535, or auto")
        )
    publish = fields.publish if isinstance(fields.publish, int) else 0
    return Port(
        name=name,
        container=fields.container,
        publish=publish,
        publish_auto=fields.publish == "auto",
        protocol=fields.protocol,
    )


def _mounts(mounts: Mapping[str, MountFields], problems: list[Problem]) -> tuple[Mount, ...]:
    made = []
    for target, fields in mounts.items():
        given = [k for k in ("tmpfs", "volume", "bind") if getattr(fields, k) is not None]
        if len(given) != 1:
            which = f"has {' and '.join(given)} at once" if given else "says not what to mount"
            problems.append(
                Problem(
                    ("mounts", target),
                    f"{which}; write one of tmpfs: 64MiB, volume: NAME and bind: /path",
                )
            )
            continue
        kind = MountKind(given[0])
        made.append(
            Mount(
                target=target,
                kind=kind,
                source=fields.volume or fields.bind or "",
                read_only=fields.read_only,
                size_bytes=fields.tmpfs or 0,
            )
        )
    return tuple(made)


def _health(fields: HealthFields) -> HealthCheck:
    return HealthCheck(
        exec=ExecCheck(command=tuple(fields.exec.command)) if fields.exec else None,
        tcp=TcpCheck(port=fields.tcp.port) if fields.tcp else None,
        http=HttpCheck(port=fields.http.port, path=fields.http.path) if fields.http else None,
        **_given(
            start_period_s=fields.start_period,
            interval_s=fields.interval,
            timeout_s=fields.timeout,
            retries=fields.retries,
        ),
    )


def _restart(workload: TaskFields) -> RestartPolicy:
    if not isinstance(workload, ServiceFields | DaemonFields):
        # Attempts are the controller's: each has its own task, log and exit code.
        return RestartPolicy(condition=RestartCondition.NEVER)
    fields = workload.restart
    given = _given(
        condition=fields.condition,
        delay_s=fields.delay,
        max_delay_s=fields.max_delay,
        reset_after_s=fields.reset_after,
        max_attempts=fields.max_attempts,
    )
    if "max_delay_s" not in given and given.get("delay_s", 0) > RestartPolicy().max_delay_s:
        given["max_delay_s"] = given["delay_s"]
    return RestartPolicy(**given)


def _placement(fields: PlacementFields) -> Placement:
    return Placement(
        require=tuple(fields.require),
        prefer=tuple(Preference(constraint=p.match, weight=p.weight) for p in fields.prefer),
        spread=tuple(Spread(over=s.over, max_skew=s.max_skew) for s in fields.spread),
        near=tuple(_affinity(a) for a in fields.near),
        apart=tuple(_affinity(a) for a in fields.apart),
        distinct=tuple(fields.distinct),
        tolerate=tuple(Toleration(key=t.key, value=t.value or "") for t in fields.tolerate),
        pool=fields.pool or "",
        policy=fields.policy,
        sticky=fields.sticky,
        gang=fields.gang,
    )


def _affinity(fields: AffinityFields) -> Affinity:
    return Affinity(service=fields.service, over=fields.over, weight=fields.weight)


def _update(fields: UpdateFields, replicas: int | None, problems: list[Problem]) -> UpdatePolicy:
    counts: dict[str, Any] = {}
    for name in ("max_surge", "max_unavailable"):
        text: str | None = getattr(fields, name)
        if text is None:
            continue
        if not text.endswith("%"):
            counts[name] = int(text)
        elif replicas is None:
            problems.append(
                Problem(("update", name), f"{text} of what? write replicas too, or a count")
            )
            counts[name] = 1
        else:
            share = replicas * int(text[:-1])
            counts[name] = -(-share // 100) if name == "max_surge" else share // 100
    return UpdatePolicy(
        strategy=fields.strategy,
        canary=_portion(fields.canary),
        pause_after=tuple(p for t in fields.pause_after if (p := _portion(t)) is not None),
        **counts,
        **_given(
            promote_after_s=fields.promote_after,
            keep_old_s=fields.keep_old,
            monitor_s=fields.monitor,
            progress_deadline_s=fields.progress_deadline,
            on_failure=fields.on_failure,
        ),
    )


def quota(fields: QuotaFields, namespace: str) -> tuple[QuotaSpec, list[Problem]]:
    limits = fields.limits
    problems = [
        Problem(("limits", name), "must be more than 0; leave it out for no limit")
        for name in ("cpu", "memory", "pids", "disk", "tasks")
        if getattr(limits, name) == 0
    ]
    spec = QuotaSpec(
        namespace=fields.namespace or namespace,
        name=fields.name,
        limits=Resources(
            cpu_millis=limits.cpu or 0,
            memory_bytes=limits.memory or 0,
            pids=limits.pids or 0,
            disk_bytes=limits.disk or 0,
        ),
        tasks=limits.tasks or 0,
        devices=dict(limits.devices),
    )
    return spec, problems


def secret(fields: SecretFields, namespace: str, directory: Path) -> tuple[Secret, list[Problem]]:
    """The secret with its files read. Files lie in `directory` or below it: a spec from
    elsewhere cannot pick up an operator's keys."""
    problems: list[Problem] = []
    values: dict[str, bytes] = {}
    for key, text in fields.values.items():
        values[key] = text.encode()
    for key, text in fields.binary.items():
        _once(key, "binary", values, problems)
        try:
            values[key] = base64.b64decode("".join(text.split()), validate=True)
        except (binascii.Error, ValueError):
            problems.append(Problem(("binary", key), "is not base64; write what `base64` prints"))
    for key, name in fields.files.items():
        _once(key, "files", values, problems)
        try:
            values[key] = _read(directory, name)
        except _Refused as error:
            problems.append(Problem(("files", key), str(error)))
    return Secret(
        namespace=fields.namespace or namespace, name=fields.name, values=values
    ), problems


def _once(key: str, kind: str, values: Mapping[str, bytes], problems: list[Problem]) -> None:
    if key in values:
        problems.append(Problem((kind, key), "stands twice in this secret; leave one out"))


class _Refused(Exception):
    """A file of a secret that is not read; the message says why."""


def _read(directory: Path, name: str) -> bytes:
    shown = f'"{shorten(name)}"'
    if not name or "\0" in name:
        raise _Refused(f"{shown} is not a path; write e.g. tls.key")
    base = directory.resolve()
    path = Path(os.path.realpath(base / name))
    if Path(name).is_absolute() or not path.is_relative_to(base):
        raise _Refused(f"{shown} is not below the directory of this file; copy it there")
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        raise _Refused(
            f"{shown} cannot be read: {(error.strerror or str(error)).lower()}"
        ) from None
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise _Refused(f"{shown} is not a regular file")
        data = file.read(SECRET_VALUE_BYTES_MAX + 1)
    if len(data) > SECRET_VALUE_BYTES_MAX:
        raise _Refused(f"{shown} is longer than {SECRET_VALUE_BYTES_MAX} bytes")
    return data
