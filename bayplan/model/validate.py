"""What a spec must satisfy whoever sends it. Pure; the command line and the controller share it.

Paths are those of the YAML an operator writes (`("health", "http", "port")`), so that a problem
can be shown beside its line.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from bayplan.model.errors import InvalidSpec
from bayplan.model.schedule import parse_schedule, time_zone
from bayplan.model.secret import Secret
from bayplan.model.service import (
    Affinity,
    Constraint,
    ConstraintOperator,
    HealthCheck,
    Mount,
    MountKind,
    NetworkMode,
    Placement,
    Port,
    RestartCondition,
    SecretReference,
    ServiceSpec,
    Spread,
    Sticky,
    TaskTemplate,
    UpdatePolicy,
    UpdateStrategy,
)
from bayplan.model.workload import CronPolicy, JobPolicy, WorkloadKind

Path = tuple[str | int, ...]

REPLICAS_MAX = 100_000
PRIORITY_MAX = 1000
AFFINITIES_MAX = 20
GLOB_MAX = 200
CRON_NAME_MAX = 52
"""A job's name is the cron's, a dash and at most ten digits: a label of at most 63."""
KEEP_MAX = 1_000
PORTS_MAX = 100
MOUNTS_MAX = 100
ENV_MAX = 1_000
WORDS_MAX = 1_000
WORDS_BYTES_MAX = 131_072
SECRET_VALUE_BYTES_MAX = 256 * 1024
SECRET_BYTES_MAX = 512 * 1024
MEMORY_BYTES_MIN = 4 << 20
TIMEOUT_S_MAX = 3600.0

# signal(7); real-time signals are written SIGRTMIN+1 to SIGRTMIN+30
_SIGNALS_TEXT = """
HUP INT QUIT ILL TRAP ABRT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM STKFLT CHLD CONT
STOP TSTP TTIN TTOU URG XCPU XFSZ VTALRM PROF WINCH IO PWR SYS
"""
SIGNALS = frozenset(_SIGNALS_TEXT.split())
# capabilities(7)
_CAPABILITIES_TEXT = """
AUDIT_CONTROL AUDIT_READ AUDIT_WRITE BLOCK_SUSPEND BPF CHECKPOINT_RESTORE CHOWN
DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID IPC_LOCK IPC_OWNER KILL LEASE LINUX_IMMUTABLE
MAC_ADMIN MAC_OVERRIDE MKNOD NET_ADMIN NET_BIND_SERVICE NET_BROADCAST NET_RAW PERFMON
SETFCAP SETGID SETPCAP SETUID SYSLOG SYS_ADMIN SYS_BOOT SYS_CHROOT SYS_MODULE SYS_NICE
SYS_PACCT SYS_PTRACE SYS_RAWIO SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG WAKE_ALARM
"""
CAPABILITIES = frozenset(_CAPABILITIES_TEXT.split())

_DNS_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LABEL_KEY = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._/-]{0,251}[A-Za-z0-9])?")
_SECRET_KEY = re.compile(r"[A-Za-z0-9._-]{1,253}")
_REFERENCE = re.compile(
    r"(?:(?:[A-Za-z0-9.-]+(?::[0-9]{1,5})?|\[[0-9a-fA-F:]+\](?::[0-9]{1,5})?)/)?"
    r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*"
    r"(?::[A-Za-z0-9_][A-Za-z0-9._-]{0,127})?(?:@sha256:[0-9a-f]{64})?"
)
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(:[A-Za-z0-9_][A-Za-z0-9_.-]*)?")
_PRIVATE_TARGETS = ("/proc", "/sys", "/dev")
_SHARED_MEMORY = "/dev/shm"  # noqa: S108 (a path in the container, which a tmpfs may resize)


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, with the path of its field and what would be right."""

    path: Path
    message: str


def validate(spec: ServiceSpec) -> list[Problem]:
    """Everything that is wrong with a workload, empty where it can run."""
    return [
        *_name(spec.name, ("name",)),
        *_name(spec.namespace, ("namespace",)),
        *_labels(spec.labels),
        *_replicas(spec.replicas),
        *_template(spec.template),
        *_placement(spec),
        *_priority(spec.priority),
        *_update(spec.update),
        *_gates(spec),
        *_disruption(spec),
        *_workload(spec),
    ]


def validate_secret(secret: Secret) -> list[Problem]:
    """Everything that is wrong with a secret; never shows a value."""
    problems = [*_name(secret.name, ("name",)), *_name(secret.namespace, ("namespace",))]
    if not secret.values:
        problems.append(Problem((), "holds no value; write e.g. values: {password: …}"))
    for key, value in secret.values.items():
        if _SECRET_KEY.fullmatch(key) is None or key in (".", ".."):
            problems.append(
                Problem((key,), f'"{key[:60]}" is not a key; use letters, digits, dots and dashes')
            )
        if len(value) > SECRET_VALUE_BYTES_MAX:
            problems.append(
                Problem((key,), f"is {len(value)} bytes long; at most {SECRET_VALUE_BYTES_MAX}")
            )
    total = sum(map(len, secret.values.values()))
    if total > SECRET_BYTES_MAX:
        problems.append(Problem((), f"holds {total} bytes; at most {SECRET_BYTES_MAX}"))
    return problems


def secret_references(template: TaskTemplate) -> tuple[SecretReference, ...]:
    """What secrets a template uses, each once, in its order."""
    found = [e.secret for e in template.env if e.secret] + [f.secret for f in template.files]
    return tuple(dict.fromkeys(found))


def _name(name: str, path: Path) -> Iterator[Problem]:
    if _DNS_LABEL.fullmatch(name) is None:
        better = re.sub(r"[^a-z0-9-]+", "-", name.lower()).strip("-")[:63].strip("-") or "web"
        yield Problem(
            path,
            f'"{name[:80]}" is not a name; use lower-case letters, digits and dashes, '
            f"e.g. {better}",
        )


def _labels(labels: Mapping[str, str]) -> Iterator[Problem]:
    for key, value in labels.items():
        if _LABEL_KEY.fullmatch(key) is None:
            yield Problem(
                ("labels", key),
                f'"{key[:80]}" is not a label; use letters, digits, dots, dashes and slashes',
            )
        if len(value) > 1024:
            yield Problem(("labels", key), "is longer than 1024 characters")


def _replicas(replicas: int | None) -> Iterator[Problem]:
    if replicas is not None and not 0 <= replicas <= REPLICAS_MAX:
        yield Problem(("replicas",), f"{replicas} is out of range; write 0 to {REPLICAS_MAX}")


def _template(template: TaskTemplate) -> Iterator[Problem]:
    if _REFERENCE.fullmatch(template.image) is None or len(template.image) > 512:
        yield Problem(
            ("image",),
            f'"{template.image[:80]}" is not an image; write e.g. web:1 or '
            "docker.example.com/shop/web:1.42",
        )
    yield from _words(template.command, ("command",))
    yield from _words(template.args, ("args",))
    yield from _env(template)
    yield from _identity(template)
    yield from _resources(template)
    yield from _devices(template)
    yield from _ports(template)
    yield from _mounts(template)
    yield from _files(template)
    if template.health is not None:
        yield from _health(template.health, template.ports, template.network)
    yield from _restart(template)
    yield from _stop(template)
    yield from _capabilities(template)


def _words(words: tuple[str, ...], path: Path) -> Iterator[Problem]:
    if len(words) > WORDS_MAX or sum(map(len, words)) > WORDS_BYTES_MAX:
        yield Problem(path, f"is too long; at most {WORDS_MAX} words, {WORDS_BYTES_MAX} characters")
    if any("\0" in w for w in words):
        yield Problem(path, "holds a NUL character; leave it out")
    if words and not words[0] and path == ("command",):
        yield Problem(path, "begins with an empty word; write the program to run")


def _env(template: TaskTemplate) -> Iterator[Problem]:
    if len(template.env) > ENV_MAX:
        yield Problem(("env",), f"has {len(template.env)} variables; at most {ENV_MAX}")
    seen: set[str] = set()
    for variable in template.env:
        path: Path = ("env", variable.name)
        if _ENV_NAME.fullmatch(variable.name) is None:
            yield Problem(
                path,
                f'"{variable.name[:80]}" is not the name of a variable; use letters, digits and _',
            )
        if variable.name in seen:
            yield Problem(path, "stands twice; leave one out")
        seen.add(variable.name)
        if "\0" in variable.value:
            yield Problem(path, "holds a NUL character; leave it out")
        if variable.secret is not None:
            if variable.value:
                yield Problem(path, "has a value and a secret; leave one out")
            yield from _secret(variable.secret, (*path, "secret"))


def _secret(reference: SecretReference, path: Path) -> Iterator[Problem]:
    if _DNS_LABEL.fullmatch(reference.name) is None:
        yield Problem(path, f'"{reference.name[:80]}" is not the name of a secret; write NAME/KEY')
    if _SECRET_KEY.fullmatch(reference.key) is None:
        yield Problem(path, f'"{reference.key[:80]}" is not the key of a secret; write NAME/KEY')


def _identity(template: TaskTemplate) -> Iterator[Problem]:
    if template.user and _USER.fullmatch(template.user) is None:
        yield Problem(
            ("user",), f'"{template.user[:80]}" is not a user; write e.g. 1000:1000 or nobody'
        )
    if template.working_dir and not _is_absolute(template.working_dir):
        yield Problem(
            ("working_dir",),
            f'"{template.working_dir[:80]}" is not an absolute path; write e.g. /srv/app',
        )
    if template.hostname:
        yield from _name(template.hostname, ("hostname",))
        if template.network is NetworkMode.HOST:
            yield Problem(
                ("hostname",), "cannot be set with network: host, which has the host's name"
            )


def _resources(template: TaskTemplate) -> Iterator[Problem]:
    resources = template.resources
    for name, amount in (
        ("cpu", resources.cpu_millis),
        ("memory", resources.memory_bytes),
        ("pids", resources.pids),
        ("disk", resources.disk_bytes),
    ):
        if amount < 0:
            yield Problem(("resources", name), "is less than nothing; write more than 0")
    if 0 < resources.memory_bytes < MEMORY_BYTES_MIN:
        yield Problem(
            ("resources", "memory"), "is too little for any process to start; write at least 4MiB"
        )


def _devices(template: TaskTemplate) -> Iterator[Problem]:
    seen: set[str] = set()
    for device in template.devices:
        path: Path = ("resources", "devices", device.name)
        if _LABEL_KEY.fullmatch(device.name) is None:
            yield Problem(path, f'"{device.name[:80]}" is not a name; write e.g. gpu')
        if device.name in seen:
            yield Problem(path, "stands twice; leave one out")
        seen.add(device.name)
        if device.millis <= 0 or (device.millis > 1000 and device.millis % 1000):
            yield Problem((*path, "count"), "is neither whole nor a share of one; write 1 or 0.5")


def _ports(template: TaskTemplate) -> Iterator[Problem]:
    if len(template.ports) > PORTS_MAX:
        yield Problem(("ports",), f"has {len(template.ports)} ports; at most {PORTS_MAX}")
    inside: dict[tuple[int, str], str] = {}
    outside: dict[tuple[int, str], str] = {}
    names: set[str] = set()
    for port in template.ports:
        path: Path = ("ports", port.name)
        yield from _name(port.name, path)
        if port.name in names:
            yield Problem(path, "stands twice; leave one out")
        names.add(port.name)
        if not 1 <= port.container <= 65535:
            yield Problem((*path, "container"), f"{port.container} is not a port; write 1 to 65535")
        key = (port.container, str(port.protocol))
        if key in inside:
            yield Problem(
                (*path, "container"),
                f'{port.container}/{port.protocol} is port "{inside[key]}" already; leave one out',
            )
        inside.setdefault(key, port.name)
        yield from _publish(port, path, outside)
        yield from _port_and_network(port, path, template.network)


def _publish(port: Port, path: Path, outside: dict[tuple[int, str], str]) -> Iterator[Problem]:
    path = (*path, "publish")
    if not 0 <= port.publish <= 65535:
        yield Problem(path, f"{port.publish} is not a port; write 1 to 65535, or auto")
    if not port.publish:
        return
    if port.publish_auto:
        yield Problem(path, f"is auto and {port.publish} at once; leave one out")
    key = (port.publish, str(port.protocol))
    if key in outside:
        yield Problem(
            path,
            f'{port.publish}/{port.protocol} is published by port "{outside[key]}" already; '
            "write another one, or auto",
        )
    outside.setdefault(key, port.name)


def _port_and_network(port: Port, path: Path, network: NetworkMode) -> Iterator[Problem]:
    published = bool(port.publish or port.publish_auto)
    if network is NetworkMode.NONE and published:
        yield Problem((*path, "publish"), "cannot be published with network: none; leave it out")
    if network is NetworkMode.HOST and port.publish_auto:
        yield Problem(
            (*path, "publish"),
            f"cannot be auto with network: host; the process itself listens on {port.container}",
        )
    if network is NetworkMode.HOST and port.publish and port.publish != port.container:
        yield Problem(
            (*path, "publish"),
            f"{port.publish} cannot differ from the container's port with network: host; "
            f"write {port.container}",
        )


def _is_absolute(path: str) -> bool:
    return path.startswith("/") and "\0" not in path and len(path) <= 4096


def _path_fault(path: str) -> str:
    """Why an absolute path of a mount or file will not do, or nothing."""
    if not _is_absolute(path):
        return (
            f'"{path[:80]}" is not an absolute path; write e.g. /{path.strip("/")[:80] or "data"}'
        )
    if ".." in path.split("/"):
        return f'"{path[:80]}" holds ".."; write the path it leads to'
    return ""


def _plain(path: str) -> str:
    return "/" + "/".join(p for p in path.split("/") if p not in ("", "."))


def _is_private(path: str) -> bool:
    return any(path == p or path.startswith(p + "/") for p in _PRIVATE_TARGETS)


def _mounts(template: TaskTemplate) -> Iterator[Problem]:
    if len(template.mounts) > MOUNTS_MAX:
        yield Problem(("mounts",), f"has {len(template.mounts)} mounts; at most {MOUNTS_MAX}")
    seen: dict[str, str] = {}
    for mount in template.mounts:
        path: Path = ("mounts", mount.target)
        if fault := _path_fault(mount.target):
            yield Problem(path, fault)
            continue
        target = _plain(mount.target)
        if target == "/":
            yield Problem(path, "would cover the root file system; mount below it")
        elif _is_private(target) and target != _SHARED_MEMORY:
            yield Problem(path, "is the container's own; mount elsewhere")
        if target in seen:
            yield Problem(path, f"is {seen[target]} already; leave one out")
        seen.setdefault(target, mount.target)
        yield from _mount_source(mount, path)


def _mount_source(mount: Mount, path: Path) -> Iterator[Problem]:
    match mount.kind:
        case MountKind.TMPFS:
            if mount.size_bytes <= 0:
                yield Problem((*path, "tmpfs"), "needs a size above 0; write e.g. 64MiB")
            if mount.read_only:
                yield Problem((*path, "read_only"), "makes no sense for a tmpfs; leave it out")
        case MountKind.VOLUME:
            yield from _name(mount.source, (*path, "volume"))
        case MountKind.BIND:
            if fault := _path_fault(mount.source):
                yield Problem((*path, "bind"), fault)


def _files(template: TaskTemplate) -> Iterator[Problem]:
    targets = {_plain(m.target) for m in template.mounts}
    seen: set[str] = set()
    for file in template.files:
        path: Path = ("files", file.path)
        if fault := _path_fault(file.path):
            yield Problem(path, fault)
            continue
        plain = _plain(file.path)
        if plain == "/" or file.path.endswith("/"):
            yield Problem(path, "is a directory; write the path of a file")
        elif _is_private(plain):
            yield Problem(path, "is the container's own; write e.g. /run/secrets/key")
        if plain in seen or plain in targets:
            yield Problem(path, "stands twice, or is a mount as well; leave one out")
        seen.add(plain)
        if not 0 <= file.mode <= 0o777:
            yield Problem((*path, "mode"), 'is not a file mode; write e.g. "0400"')
        yield from _secret(file.secret, (*path, "secret"))


def _health(check: HealthCheck, ports: tuple[Port, ...], network: NetworkMode) -> Iterator[Problem]:
    path: Path = ("health",)
    kinds = [k for k in ("exec", "tcp", "http") if getattr(check, k) is not None]
    if not kinds:
        yield Problem(path, "has none of exec, tcp and http; write e.g. http: {port: http}")
    if len(kinds) > 1:
        yield Problem(path, f"has {' and '.join(kinds)} at once; leave one out")
    if check.exec is not None:
        if not check.exec.command:
            yield Problem((*path, "exec", "command"), "is empty; write e.g. [/bin/healthy]")
        yield from _words(check.exec.command, (*path, "exec", "command"))
    if check.tcp is not None:
        yield from _health_port(check.tcp.port, (*path, "tcp", "port"), ports, network)
    if check.http is not None:
        yield from _health_port(check.http.port, (*path, "http", "port"), ports, network)
        if not re.fullmatch(r"/[\x21-\x7e]*", check.http.path):
            yield Problem(
                (*path, "http", "path"),
                f'"{check.http.path[:80]}" is not a path; write e.g. /healthz',
            )
    if check.interval_s < 0.1:
        yield Problem((*path, "interval"), "is too short; write at least 100ms")
    if not 0 < check.timeout_s <= TIMEOUT_S_MAX:
        yield Problem((*path, "timeout"), "is out of range; write e.g. 2s")
    if check.start_period_s < 0:
        yield Problem((*path, "start_period"), "is less than nothing; write e.g. 20s")
    if not 1 <= check.retries <= 1000:
        yield Problem((*path, "retries"), f"{check.retries} is out of range; write 1 to 1000")


def _health_port(
    name: str, path: Path, ports: Iterable[Port], network: NetworkMode
) -> Iterator[Problem]:
    by_name = {p.name: p for p in ports}
    if network is NetworkMode.NONE:
        yield Problem(path, "cannot be reached with network: none; write an exec check")
    elif name not in by_name:
        known = ", ".join(by_name) or "none; write e.g. ports: {http: 8080}"
        yield Problem(path, f'"{name[:80]}" is not a port of this service; it has {known}')
    elif str(by_name[name].protocol) != "tcp":
        yield Problem(path, f'"{name}" is a udp port; check a tcp port, or write an exec check')


def _restart(template: TaskTemplate) -> Iterator[Problem]:
    restart = template.restart
    for name, value in (("delay", restart.delay_s), ("reset_after", restart.reset_after_s)):
        if value < 0:
            yield Problem(("restart", name), "is less than nothing; write e.g. 1s")
    if restart.max_delay_s < restart.delay_s:
        yield Problem(("restart", "max_delay"), "is less than delay; write a longer time")
    if not 0 <= restart.max_attempts <= 1_000_000:
        yield Problem(("restart", "max_attempts"), "is out of range; write 0 for no limit")
    if restart.condition is RestartCondition.NEVER and restart.max_attempts:
        yield Problem(("restart", "max_attempts"), "makes no sense with condition: never")


def _stop(template: TaskTemplate) -> Iterator[Problem]:
    signal = template.stop.signal
    if signal and not _is_signal(signal):
        yield Problem(("stop", "signal"), f'"{signal[:40]}" is not a signal; write e.g. SIGTERM')
    if not 0 <= template.stop.grace_s <= 24 * 3600:
        yield Problem(("stop", "grace"), "is out of range; write at most 24h")


def _is_signal(text: str) -> bool:
    if re.fullmatch(r"[1-9][0-9]?", text):
        return int(text) <= 64
    word = text.removeprefix("SIG")
    if match := re.fullmatch(r"RTM(?:IN\+|AX-)([0-9]{1,2})|RTMIN|RTMAX", word):
        return int(match[1] or 0) <= 30
    return word in SIGNALS


def _capabilities(template: TaskTemplate) -> Iterator[Problem]:
    for kind, names in (("add", template.cap_add), ("drop", template.cap_drop)):
        for index, name in enumerate(names):
            if name.removeprefix("CAP_") not in CAPABILITIES | {"ALL"}:
                yield Problem(
                    ("capabilities", kind, index),
                    f'"{name[:40]}" is not a capability; write e.g. NET_ADMIN',
                )


def _priority(priority: int) -> Iterator[Problem]:
    if abs(priority) > PRIORITY_MAX:
        yield Problem(
            ("priority",), f"{priority} is out of range; write -{PRIORITY_MAX} to {PRIORITY_MAX}"
        )


def _placement(spec: ServiceSpec) -> Iterator[Problem]:
    placement = spec.placement
    for index, constraint in enumerate(placement.require):
        yield from _constraint(constraint, ("placement", "require", index))
    for index, preference in enumerate(placement.prefer):
        path: Path = ("placement", "prefer", index)
        yield from _constraint(preference.constraint, (*path, "match"))
        if not 1 <= preference.weight <= 100:
            yield Problem((*path, "weight"), f"{preference.weight} is out of range; write 1 to 100")
    seen: set[str] = set()
    for index, spread in enumerate(placement.spread):
        yield from _spread(spread, ("placement", "spread", index), seen)
    yield from _affinities(spec)
    for index, key in enumerate(placement.distinct):
        yield from _key(key, ("placement", "distinct", index))
        if key in placement.distinct[:index]:
            yield Problem(("placement", "distinct", index), f"{key} stands twice; leave one out")
    yield from _nodes_wanted(placement)


def _nodes_wanted(placement: Placement) -> Iterator[Problem]:
    for index, toleration in enumerate(placement.tolerate):
        if _LABEL_KEY.fullmatch(toleration.key) is None:
            yield Problem(
                ("placement", "tolerate", index, "key"),
                f'"{toleration.key[:80]}" is not the key of a taint; write e.g. gpu',
            )
    if placement.pool and _LABEL_KEY.fullmatch(placement.pool) is None:
        yield Problem(
            ("placement", "pool"), f'"{placement.pool[:80]}" is not a pool; write e.g. batch'
        )
    if placement.gang and placement.sticky is Sticky.REQUIRE:
        yield Problem(
            ("placement", "sticky"),
            "cannot be require with gang: one full node would hold up all; write prefer",
        )


def _affinities(spec: ServiceSpec) -> Iterator[Problem]:
    placement = spec.placement
    for name, affinities in (("near", placement.near), ("apart", placement.apart)):
        if len(affinities) > AFFINITIES_MAX:
            yield Problem(
                ("placement", name), f"has {len(affinities)} services; at most {AFFINITIES_MAX}"
            )
        for index, affinity in enumerate(affinities):
            path: Path = ("placement", name, index)
            yield from _affinity(affinity, path)
            if affinity.service not in (spec.name, f"{spec.namespace}/{spec.name}"):
                continue
            if name == "apart":
                yield Problem(
                    path, f"is this service itself; write distinct: {affinity.over} or a spread"
                )
            elif affinity.weight:
                yield Problem(
                    (*path, "weight"), "makes no sense for the service itself; leave it out"
                )
    both = {(a.service, a.over) for a in placement.near if not a.weight}
    for index, affinity in enumerate(placement.apart):
        if not affinity.weight and (affinity.service, affinity.over) in both:
            yield Problem(
                ("placement", "apart", index),
                f"{affinity.service} is required to be near as well; leave one out",
            )


def _affinity(affinity: Affinity, path: Path) -> Iterator[Problem]:
    parts = affinity.service.split("/")
    if len(parts) > 2 or any(_DNS_LABEL.fullmatch(p) is None for p in parts):
        yield Problem(
            (*path, "service"),
            f'"{affinity.service[:130]}" is not a service; write NAME or NAMESPACE/NAME',
        )
    yield from _key(affinity.over, (*path, "over"))
    if not 0 <= affinity.weight <= 100:
        yield Problem((*path, "weight"), f"{affinity.weight} is out of range; write 1 to 100")


def _key(key: str, path: Path) -> Iterator[Problem]:
    if key != "node" and not key.startswith(("label.", "attr.")):
        yield Problem(path, f'"{key[:80]}" is neither label.NAME, attr.NAME nor node')


def _constraint(constraint: Constraint, path: Path) -> Iterator[Problem]:
    if constraint.operator is ConstraintOperator.MATCHES and any(
        len(v) > GLOB_MAX for v in constraint.values
    ):
        yield Problem(path, f"is longer than {GLOB_MAX} characters; write a shorter pattern")
    if not constraint.key.startswith(("label.", "attr.")):
        yield Problem(path, f'"{constraint.key[:80]}" is neither label.NAME nor attr.NAME')


def _spread(spread: Spread, path: Path, seen: set[str]) -> Iterator[Problem]:
    yield from _key(spread.over, (*path, "over"))
    if spread.over in seen:
        yield Problem((*path, "over"), f"{spread.over} stands twice; leave one out")
    seen.add(spread.over)
    if not 0 <= spread.max_skew <= REPLICAS_MAX:
        yield Problem((*path, "max_skew"), f"{spread.max_skew} is out of range; write e.g. 1")


def _workload(spec: ServiceSpec) -> Iterator[Problem]:
    """The policies of its kind, and none of another's."""
    wants_job = spec.kind in (WorkloadKind.JOB, WorkloadKind.CRON)
    if (spec.job is not None) is not wants_job or (
        (spec.cron is not None) is not (spec.kind is WorkloadKind.CRON)
    ):
        yield Problem(("kind",), f"{spec.kind} does not go with the policies that are there")
        return
    if spec.job is not None:
        yield from _job(spec.job)
        if spec.template.restart.condition is not RestartCondition.NEVER:
            yield Problem(("restart",), "is for services and daemons; a job has retries")
    if spec.cron is not None:
        yield from _cron(spec.name, spec.cron)
    if spec.kind is not WorkloadKind.SERVICE:
        published = [p.name for p in spec.template.ports if p.publish or p.publish_auto]
        if wants_job and published:
            path: Path = ("ports", published[0], "publish")
            yield Problem(path, "is for services and daemons; leave it out")
        if spec.replicas is not None:
            yield Problem(("replicas",), "is for services; leave it out")


def _job(job: JobPolicy) -> Iterator[Problem]:
    for name, count, least in (
        ("completions", job.completions, 1),
        ("parallelism", job.parallelism, 1),
        ("retries", job.retries, 0),
    ):
        if not least <= count <= REPLICAS_MAX:
            yield Problem((name,), f"{count} is out of range; write {least} to {REPLICAS_MAX}")
    if job.retry_delay_s < 0:
        yield Problem(("retry_delay",), "is less than nothing; write e.g. 10s")
    if job.retry_max_delay_s < job.retry_delay_s:
        yield Problem(("retry_max_delay",), "is less than retry_delay; write a longer time")
    if job.deadline_s < 0:
        yield Problem(("deadline",), "is less than nothing; write e.g. 1h")
    if job.ttl_s is not None and job.ttl_s < 0:
        yield Problem(("ttl",), "is less than nothing; write e.g. 1d")


def _cron(name: str, cron: CronPolicy) -> Iterator[Problem]:
    if len(name) > CRON_NAME_MAX:
        yield Problem(
            ("name",),
            f"is too long: its jobs add a number to it; at most {CRON_NAME_MAX} characters",
        )
    for field, read, text in (
        ("schedule", parse_schedule, cron.schedule),
        ("time_zone", time_zone, cron.time_zone),
    ):
        try:
            read(text)
        except InvalidSpec as error:
            yield Problem((field,), error.message)
    if cron.start_deadline_s < 0:
        yield Problem(("start_deadline",), "is less than nothing; write e.g. 10m")
    for field, count in (
        ("keep_complete", cron.keep_complete),
        ("keep_failed", cron.keep_failed),
    ):
        if not 0 <= count <= KEEP_MAX:
            yield Problem((field,), f"{count} is out of range; write 0 to {KEEP_MAX}")


def _disruption(spec: ServiceSpec) -> Iterator[Problem]:
    if spec.node_loss_grace_s < 0:
        yield Problem(("node_loss_grace",), "is less than nothing; write e.g. 2m")
    budget = spec.disruption
    if budget is None:
        return
    if (budget.max_unavailable is None) == (budget.min_available is None):
        yield Problem(
            ("disruption",), "wants one of max_unavailable and min_available; write e.g. 1 or 20%"
        )
    stop_first = not spec.update.max_surge
    if stop_first and spec.replicas and not budget.allows(spec.replicas):
        yield Problem(
            ("disruption",),
            f"lets none of {spec.replicas} tasks go, and with max_surge 0 none could ever be "
            "updated or moved; write max_surge: 1, or a larger budget",
        )


def _gates(spec: ServiceSpec) -> Iterator[Problem]:
    """Where a rollout waits to be told to go on."""
    update = spec.update
    blue_green = update.strategy is UpdateStrategy.BLUE_GREEN
    if blue_green and any(m.kind is MountKind.VOLUME for m in spec.template.mounts):
        yield Problem(
            ("update", "strategy"),
            "is blue_green, but two tasks of a slot would write to its volume; write rolling",
        )
    portions = [("canary", update.canary)] if update.canary else []
    portions += [("pause_after", p) for p in update.pause_after]
    for name, portion in portions:
        if not portion.percent and not 1 <= portion.count <= REPLICAS_MAX:
            yield Problem(("update", name), f"{portion.text} is out of range; write e.g. 1 or 10%")
    if blue_green and portions:
        yield Problem(
            ("update", portions[0][0]),
            "does not go with strategy: blue_green, which waits once all new tasks run; "
            "leave one of them out",
        )
    if update.promote_after_s < 0:
        yield Problem(("update", "promote_after"), "is less than nothing; write e.g. 30m")
    if update.keep_old_s < 0:
        yield Problem(("update", "keep_old"), "is less than nothing; write e.g. 10m")


def _update(update: UpdatePolicy) -> Iterator[Problem]:
    for name, count in (
        ("max_surge", update.max_surge),
        ("max_unavailable", update.max_unavailable),
    ):
        if not 0 <= count <= REPLICAS_MAX:
            yield Problem(("update", name), f"{count} is out of range; write e.g. 1")
    if update.max_surge + update.max_unavailable == 0:
        yield Problem(
            ("update", "max_surge"),
            "and max_unavailable are both 0, so that no task could be replaced; write max_surge: 1",
        )
    if update.monitor_s < 0:
        yield Problem(("update", "monitor"), "is less than nothing; write e.g. 5s")
    if update.progress_deadline_s <= 0:
        yield Problem(("update", "progress_deadline"), "must be more than 0s; write e.g. 5m")
    if 0 < update.progress_deadline_s < update.monitor_s:
        yield Problem(
            ("update", "progress_deadline"),
            "is shorter than monitor, so that every update would fail; write a longer time",
        )
