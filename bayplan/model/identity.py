"""Who may do what: operators, nodes and the tokens they join with."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Role(StrEnum):
    """Each holds what the next one may do: ADMIN > OPERATOR > VIEWER."""

    ADMIN = "admin"
    OPERATOR = "operator"
    VIEWER = "viewer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """A person or a machine beside the cluster; `exec` is granted apart from the role (an
    admin has it). `certificate_serials` (hex) are those that are valid."""

    name: str
    role: Role
    exec: bool = False
    certificate_serials: tuple[str, ...] = ()
    created_at: float = 0.0


class TokenPurpose(StrEnum):
    NODE = "node"
    OPERATOR = "operator"


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinToken:
    """Stored hashed. `subject` binds it to one node name, or names the identity it logs in as;
    empty: any node. A token is good for one use where it is bound, else until it expires."""

    id: str
    purpose: TokenPurpose
    secret_hash: str
    subject: str = ""
    expires_at: float = 0.0
    created_at: float = 0.0
    created_by: str = ""
    used: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Written once, by the first leader. `ca_certificate_pem` is public; `ca_key_sealed` is
    encrypted with the key-encryption key. `subnet_pool` is what node subnets are cut from."""

    id: str
    ca_certificate_pem: str = ""
    ca_key_sealed: bytes = b""
    subnet_pool: str = "10.96.0.0/12"
    subnet_prefix: int = 24
    created_at: float = 0.0
