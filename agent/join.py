"""`bayplan-agent join`: a token in, a certificate out. The token comes from stdin or a file, never
from the command line, where every user of the host could read it."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from agent.checkpoint import Checkpoint
from agent.config import AgentConfig
from agent.identity import IdentityStore
from bayplan import pki
from bayplan.client import fetch_ca, join_node
from bayplan.model.errors import InvalidSpec
from bayplan.model.node import Node
from bayplan.wire.convert import from_pb

TOKEN_CHARACTERS_MAX: Final = 512
CONTROLLER_PORT: Final = 7443


def read_tokens(path: Path | None) -> tuple[str, ...]:
    """Several tokens, a line each, from a file. Raises InvalidSpec."""
    if path is None:
        raise InvalidSpec("join --hollow needs --token-file: a file with a token a line")
    try:
        text = path.read_text()
    except OSError as error:
        raise InvalidSpec(f"--token-file {path}: {error.strerror}") from error
    return tuple(line.strip() for line in text.splitlines() if line.strip())


def read_token(path: Path | None) -> str:
    """The token from a file, or from stdin. Raises InvalidSpec."""
    if path is not None:
        try:
            with path.open() as file:
                text = file.read(TOKEN_CHARACTERS_MAX)
        except OSError as error:
            raise InvalidSpec(f"--token-file {path}: {error.strerror}") from error
    else:
        if sys.stdin.isatty():
            print("paste the token from `bay node token`, then press Enter:", file=sys.stderr)  # noqa: T201
        text = sys.stdin.readline(TOKEN_CHARACTERS_MAX)
    if not text.strip():
        raise InvalidSpec(
            "no token was given", hint="pipe the output of `bay node token` into this command"
        )
    return text.strip()


@dataclass(frozen=True, slots=True)
class Enrolled:
    """What a host has once the cluster has let it in."""

    ca_pem: str
    certificate_pem: str
    key_pem: bytes = field(repr=False)
    node: Node

    def save(self, identity: IdentityStore) -> None:
        """Keep certificate and key where the agent looks for them."""
        identity.save(
            ca_pem=self.ca_pem, certificate_pem=self.certificate_pem, key_pem=self.key_pem
        )


async def enrol(name: str, address: str, token_text: str) -> Enrolled:
    """Join as `name` at the join port of a controller. Raises PkiError, PermissionDenied,
    Unavailable, Conflict, InvalidSpec."""
    token = pki.parse_token(token_text)
    ca_pem = await fetch_ca(address, token.ca_digest)
    key_pem = pki.make_key()
    answer = await join_node(
        address, ca_pem, token=token_text, node=name, csr_pem=pki.make_csr(key_pem, name)
    )
    return Enrolled(ca_pem, answer.certificate_pem, key_pem, from_pb(Node, answer.node))


async def join(config: AgentConfig, address: str, token_text: str) -> Node:
    """Join as `config.name`, and keep what is needed to run. Raises as `enrol`."""
    enrolled = await enrol(config.name, address, token_text)
    await asyncio.to_thread(_keep, config, address, enrolled)
    return enrolled.node


def _keep(config: AgentConfig, address: str, enrolled: Enrolled) -> None:
    config.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    enrolled.save(IdentityStore(config.state_dir / "pki"))
    checkpoint = Checkpoint(config.state_dir, uid_base=config.uid_base)
    try:
        checkpoint.put_node(enrolled.node)
        host = address.rpartition(":")[0]
        checkpoint.put_controllers(config.controllers or (f"{host}:{CONTROLLER_PORT}",))
    finally:
        checkpoint.close()
