"""What a controller is told: flags, else environment (`BAYPLAN_…`), else a file, else defaults.

The file is YAML or TOML with the flags' names (`state-dir: /srv/bayplan`). Whatever is wrong is
one sentence that names the setting and where it came from.
"""

from __future__ import annotations

import argparse
import ipaddress
import os
import re
import socket
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import yaml

from bayplan.model.errors import InvalidSpec
from bayplan.model.service import PlacementPolicy
from bayplan.spec.units import NotAnAmount, duration_s

LOG_LEVELS: Final = ("debug", "info", "warning", "error")
LOST_AFTER_MIN_S: Final = 3.0
"""Three heartbeats: fewer, and a lost packet costs a host its tasks."""
LOST_AFTER_MAX_S: Final = 3600.0
_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?")


class ConfigError(InvalidSpec):
    """A setting that cannot be used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listen:
    """Where to listen; port 0: any free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """`etcd_endpoints` empty: a managed child with its data under `state_dir`. `advertise` is
    the host name or address under which others reach this controller."""

    state_dir: Path
    etcd_endpoints: tuple[str, ...]
    etcd_ca: Path | None
    etcd_cert: Path | None
    etcd_key: Path | None
    etcd_user: str
    etcd_password_file: Path | None
    listen: Listen
    join_listen: Listen
    registry_listen: Listen
    web_listen: Listen
    advertise: str
    name: str
    kek_file: Path
    subnet_pool: str
    subnet_prefix: int
    placement_policy: PlacementPolicy
    lost_after_s: float
    log_level: str
    reissue_admin: bool = False

    @property
    def managed_etcd(self) -> bool:
        return not self.etcd_endpoints


@dataclass(frozen=True, slots=True)
class _Setting:
    name: str
    default: str
    meta: str
    help: str

    @property
    def variable(self) -> str:
        return "BAYPLAN_" + self.name.replace("-", "_").upper()


SETTINGS: Final = (
    _Setting("state-dir", "/var/lib/bayplan/controller", "DIR", "keys, certificates, managed etcd"),
    _Setting("etcd", "managed", "managed|URL,URL", "a child etcd, or your cluster's client URLs"),
    _Setting("etcd-ca", "", "FILE", "CA of your etcd cluster (PEM)"),
    _Setting("etcd-cert", "", "FILE", "client certificate for your etcd cluster (PEM)"),
    _Setting("etcd-key", "", "FILE", "its key (PEM)"),
    _Setting("etcd-user", "", "NAME", "user of your etcd cluster"),
    _Setting("etcd-password-file", "", "FILE", "file that holds the user's password"),
    _Setting("listen", "0.0.0.0:7443", "HOST:PORT", "operators and agents, mutual TLS"),
    _Setting("join-listen", "0.0.0.0:7444", "HOST:PORT", "joining and log-in, server-only TLS"),
    _Setting("registry-listen", "0.0.0.0:7445", "HOST:PORT", "the built-in image registry"),
    _Setting("web-listen", "0.0.0.0:7446", "HOST:PORT", "/metrics, /sd/agents, /healthz, /readyz"),
    _Setting("advertise", "", "HOST", "name or address others reach this controller under"),
    _Setting("name", "", "NAME", "this controller's name (default: the host's)"),
    _Setting("kek-file", "", "FILE", "key-encryption key (default: DIR/kek.key)"),
    _Setting("subnet-pool", "10.96.0.0/12", "CIDR", "what node subnets are cut from, once"),
    _Setting("subnet-prefix", "24", "BITS", "size of a node's subnet"),
    _Setting(
        "placement-policy",
        "spread",
        "POLICY",
        "of services that say nothing: spread, pack, balance",
    ),
    _Setting("lost-after", "5s", "TIME", "silence after which a node's tasks are replaced"),
    _Setting("log-level", "info", "LEVEL", "debug, info, warning or error"),
)


def parser() -> argparse.ArgumentParser:
    """The flags; every one without a default, so that what is not given can come from elsewhere."""
    made = argparse.ArgumentParser(
        prog="bayplan-controller",
        description="The Bayplan controller. Each flag can be set by BAYPLAN_NAME in the "
        "environment or by its name in the --config file (YAML or TOML).",
        allow_abbrev=False,
    )
    made.add_argument("--config", metavar="FILE", help="settings file (.yaml, .yml or .toml)")
    for setting in SETTINGS:
        default = f" (default: {setting.default})" if setting.default else ""
        made.add_argument(f"--{setting.name}", metavar=setting.meta, help=setting.help + default)
    made.add_argument(
        "--reissue-admin",
        action="store_true",
        help="write new administrator's credentials to DIR/admin (the old ones are lost)",
    )
    made.add_argument("--version", action="store_true", help="print the version and exit")
    return made


def _read_file(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text()
    except OSError as error:
        raise ConfigError(f"cannot read --config {path}: {error.strerror}") from error
    try:
        found = tomllib.loads(text) if path.suffix == ".toml" else yaml.safe_load(text)
    except (tomllib.TOMLDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: {' '.join(str(error).split())}") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{path} is not a mapping of settings, e.g. `listen: 0.0.0.0:7443`")
    known = {setting.name for setting in SETTINGS}
    for name in found:
        if name not in known:
            raise ConfigError(f"{path}: there is no setting {name!r}; see --help for their names")
    return found


def load(arguments: Sequence[str], environment: Mapping[str, str]) -> Config:
    """Raises ConfigError. Ends the process with 2 on unknown flags, as argparse does."""
    given = parser().parse_args(arguments)
    path = given.config or environment.get("BAYPLAN_CONFIG")
    file = _read_file(Path(path)) if path else {}
    values: dict[str, str] = {}
    origins: dict[str, str] = {}
    for setting in SETTINGS:
        flag = getattr(given, setting.name.replace("-", "_"))
        if flag is not None:
            values[setting.name], origins[setting.name] = flag, f"--{setting.name}"
        elif setting.variable in environment:
            values[setting.name] = environment[setting.variable]
            origins[setting.name] = setting.variable
        elif setting.name in file:
            values[setting.name] = _text(file[setting.name])
            origins[setting.name] = f"{path}: {setting.name}"
        else:
            values[setting.name], origins[setting.name] = setting.default, f"--{setting.name}"
    return replace(_Reader(values, origins).config(), reissue_admin=given.reissue_admin)


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(str(v) for v in value)
    return str(value)


class _Reader:
    """Turns texts into a Config; every refusal names where the text came from."""

    def __init__(self, values: Mapping[str, str], origins: Mapping[str, str]) -> None:
        self._values = values
        self._origins = origins

    def config(self) -> Config:
        state_dir = Path(self._values["state-dir"]).absolute()
        kek = self._values["kek-file"]
        pool, prefix = self._pool()
        return Config(
            state_dir=state_dir,
            etcd_endpoints=self._endpoints(),
            etcd_ca=self._file("etcd-ca"),
            etcd_cert=self._file("etcd-cert"),
            etcd_key=self._file("etcd-key"),
            etcd_user=self._user(),
            etcd_password_file=self._file("etcd-password-file"),
            listen=self._listen("listen"),
            join_listen=self._listen("join-listen"),
            registry_listen=self._listen("registry-listen"),
            web_listen=self._listen("web-listen"),
            advertise=self._advertise(),
            name=self._name(),
            kek_file=Path(kek).absolute() if kek else state_dir / "kek.key",
            subnet_pool=pool,
            subnet_prefix=prefix,
            placement_policy=self._policy(),
            lost_after_s=self._lost_after(),
            log_level=self._level(),
        )

    def _wrong(self, name: str, why: str) -> ConfigError:
        return ConfigError(f"{self._origins[name]} {self._values[name]!r} {why}")

    def _listen(self, name: str) -> Listen:
        text = self._values[name]
        host, colon, port = text.rpartition(":")
        if not colon or not port.isdigit() or int(port) > 65535:
            raise self._wrong(name, "is not HOST:PORT, e.g. 0.0.0.0:7443")
        host = host.strip("[]") or "0.0.0.0"  # noqa: S104 - what `:7443` means
        try:
            ipaddress.ip_address(host)
        except ValueError as error:
            raise self._wrong(name, f"does not begin with an IP address: {host!r}") from error
        return Listen(host=host, port=int(port))

    def _endpoints(self) -> tuple[str, ...]:
        text = self._values["etcd"]
        if text == "managed":
            return ()
        endpoints = tuple(e.strip().rstrip("/") for e in text.split(",") if e.strip())
        for endpoint in endpoints:
            if not re.fullmatch(r"https?://[^/\s]+:\d+", endpoint):
                raise self._wrong(
                    "etcd", f"holds {endpoint!r}, which is neither `managed` nor https://HOST:PORT"
                )
        if not endpoints:
            raise self._wrong("etcd", "names no endpoint; write `managed` or https://HOST:PORT")
        if bool(self._values["etcd-cert"]) != bool(self._values["etcd-key"]):
            raise ConfigError("--etcd-cert and --etcd-key must be given together")
        if self._values["etcd-ca"] == "" and endpoints[0].startswith("https"):
            raise ConfigError("--etcd https://… needs --etcd-ca, the CA of that cluster in PEM")
        return endpoints

    def _user(self) -> str:
        user = self._values["etcd-user"]
        if bool(user) != bool(self._values["etcd-password-file"]):
            raise ConfigError("--etcd-user and --etcd-password-file must be given together")
        return user

    def _file(self, name: str) -> Path | None:
        text = self._values[name]
        if not text:
            return None
        path = Path(text).absolute()
        if not path.is_file():
            raise self._wrong(name, "is not a file")
        if not os.access(path, os.R_OK):
            raise self._wrong(name, "cannot be read by this user")
        return path

    def _advertise(self) -> str:
        host = self._values["advertise"] or own_address(self._listen("listen").host)
        if not re.fullmatch(r"[A-Za-z0-9.:_-]+", host):
            raise self._wrong("advertise", "is not a host name or an IP address")
        if ":" in host:
            try:
                ipaddress.IPv6Address(host)
            except ValueError as error:
                raise self._wrong("advertise", "carries a port; give the host alone") from error
        return host

    def _name(self) -> str:
        name = self._values["name"] or socket.gethostname().lower()
        if not _NAME.fullmatch(name):
            raise ConfigError(
                f"{self._origins['name']} {name!r} is not a name: lower-case letters, digits, "
                "dots and dashes, at most 63"
            )
        return name

    def _pool(self) -> tuple[str, int]:
        try:
            pool = ipaddress.IPv4Network(self._values["subnet-pool"])
        except ValueError as error:
            raise self._wrong("subnet-pool", "is not an IPv4 network, e.g. 10.96.0.0/12") from error
        prefix = self._values["subnet-prefix"]
        if not prefix.isdigit() or not pool.prefixlen <= int(prefix) <= 28:
            raise self._wrong(
                "subnet-prefix", f"must be between the pool's {pool.prefixlen} and 28"
            )
        return str(pool), int(prefix)

    def _policy(self) -> PlacementPolicy:
        known = [p for p in PlacementPolicy if p is not PlacementPolicy.CLUSTER]
        if self._values["placement-policy"] not in known:
            raise self._wrong("placement-policy", f"is none of {', '.join(known)}")
        return PlacementPolicy(self._values["placement-policy"])

    def _lost_after(self) -> float:
        try:
            lost_after_s = duration_s(self._values["lost-after"])
        except NotAnAmount as error:
            raise self._wrong("lost-after", f"is refused: {error}") from error
        if not LOST_AFTER_MIN_S <= lost_after_s <= LOST_AFTER_MAX_S:
            raise self._wrong(
                "lost-after", f"must be between {LOST_AFTER_MIN_S:g}s and {LOST_AFTER_MAX_S:g}s"
            )
        return lost_after_s

    def _level(self) -> str:
        level = self._values["log-level"]
        if level not in LOG_LEVELS:
            raise self._wrong("log-level", f"is none of {', '.join(LOG_LEVELS)}")
        return level


def own_address(listen_host: str) -> str:
    """The address others most likely reach this host under: the one it listens on, else the
    source address of the default route (a UDP connect sends nothing), else loopback."""
    if not ipaddress.ip_address(listen_host).is_unspecified:
        return listen_host
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # TEST-NET-1, RFC 5737
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])
