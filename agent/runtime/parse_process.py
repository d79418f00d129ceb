"""`process` -> what runs, of config.json or of an exec request."""

from __future__ import annotations

import resource

from agent.runtime.fields import Field
from agent.runtime.spec import Capabilities, Process, Rlimit, Scheduler, User
from agent.syscalls.credentials import CAPABILITY_NUMBERS

ID_MAX = 2**32 - 2
_RLIMITS = {
    name: number
    for name, number in vars(resource).items()
    if name.startswith("RLIMIT_") and isinstance(number, int)
}
# linux/sched.h, linux/ioprio.h
_POLICIES = {
    "SCHED_OTHER": 0, "SCHED_FIFO": 1, "SCHED_RR": 2, "SCHED_BATCH": 3, "SCHED_ISO": None,
    "SCHED_IDLE": 5, "SCHED_DEADLINE": 6,
}  # fmt: skip
_POLICY_FLAGS = {
    "SCHED_FLAG_RESET_ON_FORK": 1, "SCHED_FLAG_RECLAIM": 2, "SCHED_FLAG_DL_OVERRUN": 4,
    "SCHED_FLAG_KEEP_POLICY": 8, "SCHED_FLAG_KEEP_PARAMS": 16, "SCHED_FLAG_UTIL_CLAMP_MIN": 32,
    "SCHED_FLAG_UTIL_CLAMP_MAX": 64,
}  # fmt: skip
_IO_CLASSES = {"IOPRIO_CLASS_RT": 1, "IOPRIO_CLASS_BE": 2, "IOPRIO_CLASS_IDLE": 3}
_CPU_MAX = 8191


def process(field: Field) -> Process:
    """Read a `process` object; RuntimeFailure names the field that is wrong."""
    args = field.get("args").texts()
    if not args or not args[0]:
        raise field.get("args").fail("is required: the command to run")
    env = field.get("env").texts()
    for index, variable in enumerate(env):
        if "=" not in variable or variable.startswith("="):
            raise Field(None, f"{field.path}.env[{index}]").fail("is not NAME=value")
    size, affinity = field.get("consoleSize"), field.get("execCPUAffinity")
    return Process(
        args=args,
        cwd=field.get("cwd").absolute_path(),
        env=env,
        terminal=field.get("terminal").flag(),
        console_rows=size.get("height").number(low=0, high=65535),
        console_columns=size.get("width").number(low=0, high=65535),
        user=_user(field.get("user")),
        capabilities=_capabilities(field.get("capabilities")),
        no_new_privileges=field.get("noNewPrivileges").flag(),
        oom_score_adj=field.get("oomScoreAdj").optional_number(low=-1000, high=1000),
        rlimits=_rlimits(field.get("rlimits")),
        apparmor_profile=field.get("apparmorProfile").text(),
        selinux_label=field.get("selinuxLabel").text(),
        scheduler=_scheduler(field.get("scheduler")) if field.get("scheduler").present else None,
        io_priority=_io_priority(field.get("ioPriority")),
        cpus_before=_cpus(affinity.get("initial")),
        cpus=_cpus(affinity.get("final")),
    )


def _user(field: Field) -> User:
    if field.get("username").value:
        raise field.get("username").fail("is for Windows; give numeric uid and gid")
    return User(
        uid=field.get("uid").number(low=0, high=ID_MAX),
        gid=field.get("gid").number(low=0, high=ID_MAX),
        umask=field.get("umask").optional_number(low=0, high=0o777),
        additional_gids=tuple(
            g.number(low=0, high=ID_MAX) for g in field.get("additionalGids").items()
        ),
    )


def _capabilities(field: Field) -> Capabilities | None:
    """A name this kernel's headers do not have is a warning (config.md, "capabilities")."""
    if not field.present:
        return None
    sets = {}
    unknown: list[str] = []
    for name in ("bounding", "effective", "permitted", "inheritable", "ambient"):
        bits = 0
        for member in field.get(name).items():
            number = CAPABILITY_NUMBERS.get(member.text())
            if number is None:
                unknown.append(f'{member.path}: "{member.text()}" is not a capability; ignored')
            else:
                bits |= 1 << number
        sets[name] = bits
    return Capabilities(**sets, unknown=tuple(unknown))


def _rlimits(field: Field) -> tuple[Rlimit, ...]:
    found: dict[int, Rlimit] = {}
    for member in field.items():
        kind = member.get("type").required_text()
        if kind not in _RLIMITS:
            raise member.get("type").fail(f'"{kind}" is not a limit, like RLIMIT_NOFILE')
        if _RLIMITS[kind] in found:
            raise member.get("type").fail(f'"{kind}" is given twice')
        found[_RLIMITS[kind]] = Rlimit(
            kind=_RLIMITS[kind],
            soft=member.get("soft").number(low=0),
            hard=member.get("hard").number(low=0),
            path=member.path,
        )
    return tuple(found.values())


def _scheduler(field: Field) -> Scheduler:
    name = field.get("policy").required_text()
    policy = _POLICIES.get(name)
    if policy is None:
        raise field.get("policy").fail(f'"{name}" is not a policy of this kernel, like SCHED_RR')
    flags = 0
    for member in field.get("flags").items():
        if member.text() not in _POLICY_FLAGS:
            raise member.fail(f'"{member.text()}" is not a flag of sched_setattr(2)')
        flags |= _POLICY_FLAGS[member.text()]
    return Scheduler(
        policy=policy,
        nice=field.get("nice").number(low=-20, high=19),
        priority=field.get("priority").number(low=0, high=99),
        flags=flags,
        runtime_ns=field.get("runtime").number(low=0),
        deadline_ns=field.get("deadline").number(low=0),
        period_ns=field.get("period").number(low=0),
    )


def _io_priority(field: Field) -> int | None:
    if not field.present:
        return None
    name = field.get("class").required_text()
    if name not in _IO_CLASSES:
        raise field.get("class").fail(f'"{name}" is not one of {", ".join(_IO_CLASSES)}')
    return _IO_CLASSES[name] << 13 | field.get("priority").number(low=0, high=7)


def _cpus(field: Field) -> frozenset[int]:
    """A list as cpuset(7) writes it: 0-2,7."""
    cpus: set[int] = set()
    for part in filter(None, field.text().split(",")):
        low, _, high = part.partition("-")
        if not (low.isascii() and low.isdigit() and (not high or high.isdigit())):
            raise field.fail(f'"{part}" is not a CPU or a range of them, like 0-2')
        first, last = int(low), int(high or low)
        if not first <= last <= _CPU_MAX:
            raise field.fail(f'"{part}" is not a range up to {_CPU_MAX}')
        cpus.update(range(first, last + 1))
    return frozenset(cpus)
