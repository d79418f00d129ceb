"""What a container is made of and may do, and how it ends."""

from __future__ import annotations

import re
from collections.abc import Iterator

from bayplan.model.service import NetworkMode, RestartCondition, TaskTemplate
from bayplan.model.validate.files import check_files, check_mounts, is_absolute
from bayplan.model.validate.health import check_health, check_words
from bayplan.model.validate.names import LABEL_KEY, check_name, check_secret
from bayplan.model.validate.ports import check_ports
from bayplan.model.validate.problems import Path, Problem

ENV_MAX = 1_000
MEMORY_BYTES_MIN = 4 << 20
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
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_REFERENCE = re.compile(
    r"(?:(?:[A-Za-z0-9.-]+(?::[0-9]{1,5})?|\[[0-9a-fA-F:]+\](?::[0-9]{1,5})?)/)?"
    r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*"
    r"(?::[A-Za-z0-9_][A-Za-z0-9._-]{0,127})?(?:@sha256:[0-9a-f]{64})?"
)
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(:[A-Za-z0-9_][A-Za-z0-9_.-]*)?")


def check_template(template: TaskTemplate) -> Iterator[Problem]:
    """Everything about one container."""
    if _REFERENCE.fullmatch(template.image) is None or len(template.image) > 512:
        yield Problem(
            ("image",),
            f'"{template.image[:80]}" is not an image; write e.g. web:1 or '
            "docker.example.com/shop/web:1.42",
        )
    yield from check_words(template.command, ("command",))
    yield from check_words(template.args, ("args",))
    yield from _env(template)
    yield from _identity(template)
    yield from _resources(template)
    yield from _devices(template)
    yield from check_ports(template)
    yield from check_mounts(template)
    yield from check_files(template)
    if template.health is not None:
        yield from check_health(template.health, template.ports, template.network)
    yield from _restart(template)
    yield from _stop(template)
    yield from _capabilities(template)


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
            yield from check_secret(variable.secret, (*path, "secret"))


def _identity(template: TaskTemplate) -> Iterator[Problem]:
    if template.user and _USER.fullmatch(template.user) is None:
        yield Problem(
            ("user",), f'"{template.user[:80]}" is not a user; write e.g. 1000:1000 or nobody'
        )
    if template.working_dir and not is_absolute(template.working_dir):
        yield Problem(
            ("working_dir",),
            f'"{template.working_dir[:80]}" is not an absolute path; write e.g. /srv/app',
        )
    if template.hostname:
        yield from check_name(template.hostname, ("hostname",))
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
        if LABEL_KEY.fullmatch(device.name) is None:
            yield Problem(path, f'"{device.name[:80]}" is not a name; write e.g. gpu')
        if device.name in seen:
            yield Problem(path, "stands twice; leave one out")
        seen.add(device.name)
        if device.millis <= 0 or (device.millis > 1000 and device.millis % 1000):
            yield Problem((*path, "count"), "is neither whole nor a share of one; write 1 or 0.5")


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
