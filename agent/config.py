"""The agent's own configuration: what this host offers, and what no controller can lift.

A YAML file (`/etc/bayplan/agent.yaml`), over it the command line. Every error is one sentence
with the file and the line.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from ipaddress import IPv4Network
from pathlib import Path, PurePosixPath
from typing import Any, Final

import yaml

from bayplan.model.errors import InvalidSpec
from bayplan.model.node import Device
from bayplan.model.resources import Resources
from bayplan.spec.units import NotAnAmount, cpu_millis, duration_s, size_bytes

FILE_DEFAULT: Final = Path("/etc/bayplan/agent.yaml")
FILE_MAX_BYTES: Final = 1 << 20
LOG_MAX_BYTES: Final = 10 << 20
LOG_FILES: Final = 3
DEVICES_MAX: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceilings:
    """What tasks may ask of this host (`allow:` in the file), whatever the controller says.

    `bind`: absolute paths below which bind mounts may start. `capabilities`: what `cap_add` may
    name beyond the default set; `ALL` allows all. `registries`: hosts images may come from beside
    the cluster's own registry; None: any.
    """

    bind: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()
    host_network: bool = False
    userns_host: bool = False
    registries: tuple[str, ...] | None = None
    source: str = str(FILE_DEFAULT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Pauses and limits of a task's life on this host, all in seconds.

    `drain_pause_s` passes between a task leaving the balancing rules and its stop signal, for
    requests that are on their way. `withdraw_max_s` bounds the wait for the rules themselves.
    """

    drain_pause_s: float = 0.2
    withdraw_max_s: float = 10.0
    retry_min_s: float = 1.0
    retry_max_s: float = 60.0
    kill_retry_s: float = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceSetting:
    """`count` devices alike; `{}` in a path is the number of each."""

    name: str = ""
    count: int = 1
    model: str = ""
    paths: tuple[str, ...] = ()


def numbered(settings: Sequence[DeviceSetting]) -> tuple[Device, ...]:
    """One device for each; those of one name are numbered from 0, over all settings."""
    found: list[Device] = []
    next_of: dict[str, int] = {}
    for setting in settings:
        for _ in range(setting.count):
            number = str(next_of.get(setting.name, 0))
            next_of[setting.name] = int(number) + 1
            paths = tuple(path.replace("{}", number) for path in setting.paths)
            found.append(Device(name=setting.name, id=number, model=setting.model, paths=paths))
    return tuple(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentConfig:
    """All settings of one agent.

    `reserve` is kept for the host itself: allocatable is what is left. `subnet` overrides the
    one the controller assigned. `uid_base`: the first id of the ranges tasks are given.
    `registry`: where the cluster's own registries are, if not on port 7445 of each controller.
    `plain_http_registries`: hosts that may be spoken to without TLS. `devices`: what tasks may
    ask for by name; nothing else of the host's /dev is ever passed on.
    """

    name: str = ""
    controllers: tuple[str, ...] = ()
    state_dir: Path = Path("/var/lib/bayplan/agent")
    cgroup_root: str = "/bayplan.slice"
    metrics_listen: str = "0.0.0.0:9443"
    runtime: str = "native"
    subnet: str = ""
    bridge: str = "bay0"
    address: str = ""
    registry: tuple[str, ...] = ()
    reserve: Resources = field(default_factory=Resources)
    devices: tuple[Device, ...] = ()
    log_max_bytes: int = LOG_MAX_BYTES
    log_files: int = LOG_FILES
    uid_base: int = 1 << 20
    plain_http_registries: tuple[str, ...] = ()
    allow: Ceilings = field(default_factory=Ceilings)
    timing: Timing = field(default_factory=Timing)


class ConfigError(InvalidSpec):
    """A setting that cannot be used; the message begins with `file:line:` or the flag."""


def load(path: Path | None, overrides: Mapping[str, Any]) -> AgentConfig:
    """The file (the default one may be missing, one that was named may not), then `overrides`:
    values by AgentConfig's field names, None for those not given."""
    config = AgentConfig()
    if path is not None or FILE_DEFAULT.exists():
        config = _read(path or FILE_DEFAULT)
    given = {name: value for name, value in overrides.items() if value is not None}
    config = replace(config, **given)
    if config.name:
        _checked("--name", _host_name, config.name)
    if config.subnet:
        _checked("--subnet", _subnet, config.subnet)
    _checked("--cgroup-root", _cgroup, config.cgroup_root)
    _checked("--runtime", _runtime, config.runtime)
    _checked("--metrics-listen", _listen, config.metrics_listen)
    for address in config.registry:
        _checked("--registry", _listen, address)
    return config


def split_address(address: str) -> tuple[str, int]:
    """`host:port` or `[v6]:port` to its parts. Raises ValueError."""
    host, separator, port = address.rpartition(":")
    if not separator or not port.isdecimal() or not 0 <= int(port) <= 65535:
        raise ValueError(f'"{address}" is not host:port; write e.g. 0.0.0.0:9443')
    return host.strip("[]"), int(port)


def _read(path: Path) -> AgentConfig:
    try:
        with path.open("rb") as file:
            text = file.read(FILE_MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    if len(text) > FILE_MAX_BYTES:
        raise ConfigError(f"{path}: larger than {FILE_MAX_BYTES} bytes; this is no agent.yaml")
    try:
        document = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else 1
        problem = getattr(error, "problem", None) or "is not YAML"
        raise ConfigError(f"{path}:{line}: {problem}") from error
    reader = _Reader(path)
    values = reader.mapping(document, _FIELDS, "") if document is not None else {}
    allow = Ceilings(**values.pop("allow", {}), source=str(path))
    logs = values.pop("logs", {})
    devices = numbered(values.pop("devices", ()))
    return AgentConfig(
        **values,
        devices=devices,
        allow=allow,
        log_max_bytes=logs.get("max_size", LOG_MAX_BYTES),
        log_files=logs.get("files", LOG_FILES),
    )


class _Reader:
    """Walks YAML nodes, which know their lines."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def fail(self, node: yaml.Node, message: str) -> ConfigError:
        return ConfigError(f"{self._path}:{node.start_mark.line + 1}: {message}")

    def mapping(self, node: yaml.Node, known: Mapping[str, Any], where: str) -> dict[str, Any]:
        if not isinstance(node, yaml.MappingNode):
            raise self.fail(node, f"{where or 'the file'} must be a mapping of settings")
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            name = f"{where}.{key}" if where else key
            if key == "labels":
                raise self.fail(
                    key_node,
                    "labels are set at the controller, not here: bay node label NODE key=value",
                )
            if key not in known:
                near = get_close_matches(key, known, 1)
                hint = f"; did you mean {near[0]}?" if near else f"; known: {', '.join(known)}"
                raise self.fail(key_node, f"there is no setting {name}{hint}")
            if key in found:
                raise self.fail(key_node, f"{name} is set twice")
            found[key] = self._value(value_node, known[key], name)
        return found

    def _value(self, node: yaml.Node, kind: Any, name: str) -> Any:
        if isinstance(kind, dict):
            return self.mapping(node, kind, name)
        if isinstance(kind, _Build):
            got = self.mapping(node, kind.known, name)
            missing = [word for word in kind.required if word not in got]
            if missing:
                raise self.fail(node, f"{name} needs {missing[0]}")
            return kind.make(got)
        if isinstance(kind, _List):
            if kind.or_one and isinstance(node, yaml.ScalarNode):
                return (self._value(node, kind.item, name),)
            if not isinstance(node, yaml.SequenceNode):
                raise self.fail(node, f"{name} must be a list")
            return tuple(self._value(item, kind.item, name) for item in node.value)
        if not isinstance(node, yaml.ScalarNode):
            raise self.fail(node, f"{name} must be one value")
        try:
            return kind(node.value)
        except (NotAnAmount, ValueError) as error:
            raise self.fail(node, f"{name}: {error}") from error


@dataclass(frozen=True, slots=True)
class _List:
    item: Any
    or_one: bool = False


@dataclass(frozen=True, slots=True)
class _Build:
    known: dict[str, Any]
    make: Callable[[dict[str, Any]], Any]
    required: tuple[str, ...] = ()


def _checked(flag: str, check: Callable[[str], object], value: str) -> None:
    try:
        check(value)
    except ValueError as error:
        raise ConfigError(f"{flag}: {error}") from error


def _boolean(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError(f'"{text}" is neither true nor false')
    return text == "true"


def _device_name(text: str) -> str:
    if not text or len(text) > 63 or not all(c.isalnum() or c in "-._" for c in text):
        raise ValueError(f'"{text}" is not a name; write e.g. gpu')
    return text


def _device_path(text: str) -> str:
    if not text.startswith("/dev/"):
        raise ValueError(f'"{text}" is not below /dev')
    return _absolute(text)


def _integer(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isdecimal() or not low <= int(text) <= high:
            raise ValueError(f'"{text}" is not a number from {low} to {high}')
        return int(text)

    return parse


def _absolute(text: str) -> str:
    path = PurePosixPath(text)
    if not path.is_absolute() or ".." in path.parts:
        raise ValueError(f'"{text}" is not an absolute path')
    return str(path)


def _host_name(text: str) -> str:
    if not 1 <= len(text) <= 63 or not all(c.isalnum() or c in "-." for c in text.lower()):
        raise ValueError(f'"{text}" is not a node name; use letters, digits, - and .')
    return text


def _subnet(text: str) -> str:
    network = IPv4Network(text)
    if network.prefixlen > 29:
        raise ValueError(f'"{text}" is too small; use at most /29')
    return text


def _cgroup(text: str) -> str:
    path = _absolute(text)
    if path == "/":
        raise ValueError("the root of all cgroups cannot hold tasks; write e.g. /bayplan.slice")
    return path


def _runtime(text: str) -> str:
    if text != "native":
        raise ValueError(f'"{text}" is not a runtime this agent can use; write native')
    return text


def _listen(text: str) -> str:
    split_address(text)
    return text


_FIELDS: Final[dict[str, Any]] = {
    "name": _host_name,
    "controllers": _List(_listen),
    "state_dir": lambda text: Path(_absolute(text)),
    "cgroup_root": _cgroup,
    "metrics_listen": _listen,
    "runtime": _runtime,
    "subnet": _subnet,
    "bridge": str,
    "address": str,
    "registry": _List(_listen, or_one=True),
    "uid_base": _integer(1 << 16, 1 << 31),
    "plain_http_registries": _List(str),
    "reserve": _Build(
        {"cpu": cpu_millis, "memory": size_bytes, "disk": size_bytes},
        lambda got: Resources(
            cpu_millis=got.get("cpu", 0),
            memory_bytes=got.get("memory", 0),
            disk_bytes=got.get("disk", 0),
        ),
    ),
    "devices": _List(
        _Build(
            {
                "name": _device_name,
                "count": _integer(1, DEVICES_MAX),
                "model": _device_name,
                "paths": _List(_device_path),
            },
            lambda got: DeviceSetting(**got),
            required=("name",),
        )
    ),
    "logs": {"max_size": size_bytes, "files": _integer(1, 100)},
    "allow": {
        "bind": _List(_absolute),
        "capabilities": _List(str),
        "host_network": _boolean,
        "userns_host": _boolean,
        "registries": _List(str),
    },
    "timing": _Build(
        {f.name.removesuffix("_s"): duration_s for f in fields(Timing)},
        lambda got: Timing(**{f"{name}_s": value for name, value in got.items()}),
    ),
}
