"""An etcd cluster over the lab's controller machines: one member on each, mutual TLS between them
and towards clients. Its certificates come from an authority of its own, whose key is not kept."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from bayplan import pki
from bayplan.pki import Holder

CLIENT_PORT, PEER_PORT = 2379, 2380
BINARY = "etcd"
LIFETIME_S = 365 * pki.DAY_S


def certify(directories: Mapping[str, Path], addresses: Mapping[str, str]) -> None:
    """`ca.pem`, `cert.pem` and `key.pem` (0600) in each member's directory."""
    authority = pki.make_ca("lab etcd", lifetime_s=LIFETIME_S)
    for name, directory in directories.items():
        made = pki.make_credentials(
            authority,
            Holder.CONTROLLER,
            name,
            names=(addresses[name], "127.0.0.1"),
            lifetime_s=LIFETIME_S,
        )
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        pki.write_private(directory / "ca.pem", authority.certificate_pem)
        pki.write_private(directory / "cert.pem", made.certificate_pem)
        pki.write_private(directory / "key.pem", made.key_pem)


def endpoints(addresses: Mapping[str, str]) -> str:
    """Where clients find the cluster, as a controller's `--etcd` takes it."""
    return ",".join(f"https://{address}:{CLIENT_PORT}" for address in addresses.values())


def member_command(name: str, addresses: Mapping[str, str], directory: Path) -> list[str]:
    """A member's command line; the same at its first start and at each later one, since etcd
    reads the initial cluster only where there is no data."""
    address = addresses[name]
    client, peer = f"https://{address}:{CLIENT_PORT}", f"https://{address}:{PEER_PORT}"
    members = ",".join(f"{n}=https://{a}:{PEER_PORT}" for n, a in addresses.items())
    ca, cert, key = (str(directory / f"{part}.pem") for part in ("ca", "cert", "key"))
    flags = {
        "name": name,
        "data-dir": str(directory / "data"),
        "listen-client-urls": client,
        "advertise-client-urls": client,
        "listen-peer-urls": peer,
        "initial-advertise-peer-urls": peer,
        "initial-cluster": members,
        "initial-cluster-state": "new",
        "client-cert-auth": "true",
        "trusted-ca-file": ca,
        "cert-file": cert,
        "key-file": key,
        "peer-client-cert-auth": "true",
        "peer-trusted-ca-file": ca,
        "peer-cert-file": cert,
        "peer-key-file": key,
        "logger": "zap",
        "log-outputs": "stderr",
    }
    return [BINARY, *(f"--{flag}={value}" for flag, value in flags.items())]
