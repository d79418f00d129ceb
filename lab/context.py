"""The lab's cluster among those that `bay` knows, for who called and by way of sudo(8)."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

from bayplan import contexts
from lab import cluster
from lab.cluster import Controllers
from lab.state import State


def write(directory: Path, lab: State, controllers: Controllers, *, merge: bool) -> str:
    """Writes the context into the lab's own directory (`bay`), and with `merge` also into the
    caller's configuration, whose directory is returned (else empty)."""
    _save(directory / "bay", lab, controllers)
    if not merge:
        return ""
    config, owner = _callers_config()
    missing = [path for path in (config.parent, config) if not path.exists()]
    _save(config, lab, controllers)
    if owner is not None:
        for path in (*missing, config, *config.rglob("*")):
            os.chown(path, *owner, follow_symlinks=False)
    return str(config)


def forget(lab: State) -> None:
    """Takes the context out of the configuration it was merged into."""
    if not lab.context:
        return
    config = contexts.load_config(Path(lab.context))
    if lab.name in config.contexts:
        for path in (found := config.contexts[lab.name]).ca, found.cert, found.key:
            path.unlink(missing_ok=True)
        if found.ca.parent.is_dir():
            found.ca.parent.rmdir()
        contexts.save_config(config.without(lab.name))


def _save(directory: Path, lab: State, controllers: Controllers) -> None:
    admin = cluster.credentials(controllers.admin)
    config = contexts.load_config(directory)
    ca, cert, key = contexts.store_credentials(
        config,
        lab.name,
        ca_pem=admin.ca_pem,
        certificate_pem=admin.certificate_pem,
        key_pem=admin.key_pem.encode(),
    )
    addresses = list(controllers.addresses.values())
    made = contexts.Context(
        name=lab.name,
        controllers=controllers.endpoints,
        registries=tuple(f"{address}:{cluster.REGISTRY_PORT}" for address in addresses),
        ca=ca,
        cert=cert,
        key=key,
    )
    contexts.save_config(config.with_context(made))


def _callers_config() -> tuple[Path, tuple[int, int] | None]:
    """The configuration of whoever called sudo, else of root."""
    if contexts.CONFIG_ENV in os.environ or "SUDO_UID" not in os.environ:
        return contexts.config_directory(), None
    uid, gid = int(os.environ["SUDO_UID"]), int(os.environ["SUDO_GID"])
    return Path(pwd.getpwuid(uid).pw_dir) / ".config" / "bay", (uid, gid)
