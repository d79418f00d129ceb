"""config.json -> spec values. What is asked for and not supported is refused by name."""

from __future__ import annotations

import resource

from agent.runtime.fields import Field
from agent.runtime.spec import (
    Capabilities,
    Config,
    Device,
    DeviceRule,
    IdMapping,
    Linux,
    Mount,
    Process,
    Resources,
    Rlimit,
    User,
)
from agent.syscalls.credentials import CAPABILITY_NUMBERS

NAMESPACES = ("user", "cgroup", "ipc", "mount", "network", "pid", "uts")
_ID_MAX = 2**32 - 2
_RLIMITS = {
    name: number
    for name, number in vars(resource).items()
    if name.startswith("RLIMIT_") and isinstance(number, int)
}
_REFUSED = ("hooks", "linux.intelRdt", "linux.personality", "linux.timeOffsets", "linux.mountLabel",
            "process.apparmorProfile", "process.selinuxLabel", "process.scheduler",
            "process.ioPriority", "process.execCPUAffinity", "solaris", "windows", "vm",
            "zos")  # fmt: skip
_REFUSED_RESOURCES = ("blockIO", "hugepageLimits", "network", "rdma")


def config(document: object) -> Config:
    """Read a whole config.json; RuntimeFailure names the field that is wrong."""
    root = Field(document, "")
    version = root.get("ociVersion").required_text()
    if not version.startswith("1."):
        raise root.get("ociVersion").fail(f'"{version}" is not a 1.x version')
    for path in _REFUSED:
        _refuse(root, path)
    linux_field = root.get("linux")
    parsed = Config(
        process=process(root.get("process")),
        root_path=root.get("root").get("path").required_text(),
        root_readonly=root.get("root").get("readonly").flag(),
        hostname=root.get("hostname").text(),
        domainname=root.get("domainname").text(),
        mounts=tuple(_mount(m) for m in root.get("mounts").items()),
        linux=_linux(linux_field),
        annotations=root.get("annotations").mapping(),
    )
    _check_together(parsed, root)
    return parsed


def _refuse(root: Field, path: str) -> None:
    field = root
    for name in path.split("."):
        field = field.get(name)
    if field.value not in (None, "", {}, []):
        raise field.fail("is not supported by this runtime; remove it or use runc or crun")


def _check_together(parsed: Config, root: Field) -> None:
    """What no field alone can tell."""
    linux, namespaces = root.get("linux"), parsed.linux.namespaces
    if "mount" not in namespaces:
        raise linux.get("namespaces").fail("must hold a mount namespace")
    new_user = namespaces.get("user") == ""
    if new_user and not (parsed.linux.uid_mappings and parsed.linux.gid_mappings):
        raise linux.get("uidMappings").fail("is required with a new user namespace")
    if not parsed.private_users and (parsed.linux.uid_mappings or parsed.linux.gid_mappings):
        raise linux.get("uidMappings").fail("needs a user namespace in linux.namespaces")
    if parsed.hostname and "uts" not in namespaces:
        raise root.get("hostname").fail("needs a uts namespace in linux.namespaces")
    for name in parsed.linux.sysctl:
        needed = "network" if name.startswith("net.") else "ipc"
        if name in ("kernel.hostname", "kernel.domainname"):
            needed = "uts"
        elif not name.startswith(("net.", "kernel.msg", "kernel.sem", "kernel.shm", "fs.mqueue.")):
            raise linux.get("sysctl").fail(f"{name} is not namespaced: it would change the host")
        if needed not in namespaces:
            raise linux.get("sysctl").fail(f"{name} needs a {needed} namespace of its own")


def process(field: Field) -> Process:
    """Read a `process` object, of config.json or of an exec request."""
    args = field.get("args").texts()
    if not args or not args[0]:
        raise field.get("args").fail("is required: the command to run")
    env = field.get("env").texts()
    for index, variable in enumerate(env):
        if "=" not in variable or variable.startswith("="):
            raise Field(None, f"{field.path}.env[{index}]").fail("is not NAME=value")
    size = field.get("consoleSize")
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
        rlimits=tuple(_rlimit(r) for r in field.get("rlimits").items()),
    )


def _user(field: Field) -> User:
    if field.get("username").present:
        raise field.get("username").fail("is for Windows; give numeric uid and gid")
    return User(
        uid=field.get("uid").number(low=0, high=_ID_MAX),
        gid=field.get("gid").number(low=0, high=_ID_MAX),
        umask=field.get("umask").optional_number(low=0, high=0o777),
        additional_gids=tuple(
            g.number(low=0, high=_ID_MAX) for g in field.get("additionalGids").items()
        ),
    )


def _capabilities(field: Field) -> Capabilities | None:
    if not field.present:
        return None
    sets = {}
    for name in ("bounding", "effective", "permitted", "inheritable", "ambient"):
        bits = 0
        for member in field.get(name).items():
            number = CAPABILITY_NUMBERS.get(member.text())
            if number is None:
                raise member.fail(f'"{member.text()}" is not a capability, like CAP_CHOWN')
            bits |= 1 << number
        sets[name] = bits
    return Capabilities(**sets)


def _rlimit(field: Field) -> Rlimit:
    kind = field.get("type").required_text()
    if kind not in _RLIMITS:
        raise field.get("type").fail(f'"{kind}" is not a limit, like RLIMIT_NOFILE')
    return Rlimit(
        kind=_RLIMITS[kind],
        soft=field.get("soft").number(low=0),
        hard=field.get("hard").number(low=0),
        path=field.path,
    )


def _mount(field: Field) -> Mount:
    return Mount(
        destination=field.get("destination").absolute_path(),
        kind=field.get("type").text(),
        source=field.get("source").text(),
        options=field.get("options").texts(),
        uid_mappings=_id_mappings(field.get("uidMappings")),
        gid_mappings=_id_mappings(field.get("gidMappings")),
        path=field.path,
    )


def _id_mappings(field: Field) -> tuple[IdMapping, ...]:
    return tuple(
        IdMapping(
            container_id=m.get("containerID").number(low=0, high=_ID_MAX),
            host_id=m.get("hostID").number(low=0, high=_ID_MAX),
            size=m.get("size").number(low=1, high=2**32 - 1),
        )
        for m in field.items()
    )


def _linux(field: Field) -> Linux:
    return Linux(
        namespaces=_namespaces(field.get("namespaces")),
        uid_mappings=_id_mappings(field.get("uidMappings")),
        gid_mappings=_id_mappings(field.get("gidMappings")),
        devices=tuple(_device(d) for d in field.get("devices").items()),
        cgroups_path=_cgroups_path(field.get("cgroupsPath")),
        resources=resources(field.get("resources")),
        rootfs_propagation=field.get("rootfsPropagation").choice(
            "shared", "slave", "private", "unbindable", "rshared", "rslave", "rprivate",
            "runbindable",
        ),
        seccomp=field.get("seccomp").object() or None,
        sysctl=field.get("sysctl").mapping(),
        masked_paths=tuple(p.absolute_path() for p in field.get("maskedPaths").items()),
        readonly_paths=tuple(p.absolute_path() for p in field.get("readonlyPaths").items()),
    )  # fmt: skip


def _cgroups_path(field: Field) -> str:
    text = field.text()
    if ".." in text.split("/"):
        raise field.fail('must not hold ".."')
    return text


def _namespaces(field: Field) -> dict[str, str]:
    found: dict[str, str] = {}
    for member in field.items():
        kind = member.get("type").required_text()
        if kind == "time":
            raise member.fail("time namespaces are not supported by this runtime")
        if kind not in NAMESPACES:
            raise member.get("type").fail(f'"{kind}" is not one of {", ".join(NAMESPACES)}')
        if kind in found:
            raise member.get("type").fail(f'"{kind}" is given twice')
        path = member.get("path")
        if path.present and kind == "mount":
            raise path.fail("joining a mount namespace is not supported by this runtime")
        found[kind] = path.absolute_path() if path.present else ""
    return found


def _device(field: Field) -> Device:
    kind = field.get("type").choice("c", "b", "u", "p")
    if not kind:
        raise field.get("type").fail("is required")
    return Device(
        path=field.get("path").absolute_path(),
        kind=kind,
        major=field.get("major").number(low=0, high=2**12 - 1),
        minor=field.get("minor").number(low=0, high=2**20 - 1),
        mode=field.get("fileMode").number(0o666, low=0, high=0o7777),
        uid=field.get("uid").number(low=0, high=_ID_MAX),
        gid=field.get("gid").number(low=0, high=_ID_MAX),
    )


def resources(field: Field) -> Resources:
    """Read a `resources` object, of config.json or of an update."""
    for name in _REFUSED_RESOURCES:
        _refuse(field, name)
    cpu, memory = field.get("cpu"), field.get("memory")
    for name in ("realtimePeriod", "realtimeRuntime", "burst", "idle"):
        _refuse(cpu, name)
    for name in ("kernel", "kernelTCP", "swappiness", "disableOOMKiller"):
        _refuse(memory, name)
    return Resources(
        cpu_shares=cpu.get("shares").optional_number(low=0, high=262144),
        cpu_quota_us=cpu.get("quota").optional_number(low=-1),
        cpu_period_us=cpu.get("period").optional_number(low=0, high=1_000_000),
        cpuset_cpus=cpu.get("cpus").text(),
        cpuset_mems=cpu.get("mems").text(),
        memory_limit_bytes=memory.get("limit").optional_number(low=-1),
        memory_reservation_bytes=memory.get("reservation").optional_number(low=-1),
        memory_swap_bytes=memory.get("swap").optional_number(low=-1),
        pids_limit=field.get("pids").get("limit").optional_number(low=-1),
        devices=tuple(_device_rule(d) for d in field.get("devices").items()),
        unified=field.get("unified").mapping(),
    )


def _device_rule(field: Field) -> DeviceRule:
    major, minor = field.get("major"), field.get("minor")
    access = field.get("access").text("rwm")
    if not access or set(access) - set("rwm"):
        raise field.get("access").fail(f'"{access}" is not made of r, w and m')
    numbers = [n.optional_number(low=-1, high=2**32) for n in (major, minor)]
    return DeviceRule(
        allow=field.get("allow").flag(),
        kind=field.get("type").choice("a", "b", "c", default="a"),
        major=None if numbers[0] == -1 else numbers[0],
        minor=None if numbers[1] == -1 else numbers[1],
        access=access,
    )
