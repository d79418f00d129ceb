"""`bayplan-agent join`: a token in, a certificate out. The token comes from stdin or a file, never
from the command line, where every user of the host could read it."""

from __future__ import annotations

import asyncio
import sys
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


async def join(config: AgentConfig, address: str, token_text: str) -> Node:
    """Join as `config.name` at the join port of a controller, and keep what is needed to run.
    Raises PkiError, PermissionDenied, Unavailable, Conflict, InvalidSpec."""
    token = pki.parse_token(token_text)
    ca_pem = await fetch_ca(address, token.ca_digest)
    key_pem = pki.make_key()
    answer = await join_node(
        address,
        ca_pem,
        token=token_text,
        node=config.name,
        csr_pem=pki.make_csr(key_pem, config.name),
    )
    node = from_pb(Node, answer.node)
    await asyncio.to_thread(_keep, config, address, ca_pem, answer.certificate_pem, key_pem, node)
    return node


def _keep(
    config: AgentConfig, address: str, ca_pem: str, certificate: str, key_pem: bytes, node: Node
) -> None:
    config.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    IdentityStore(config.state_dir / "pki").save(
        ca_pem=ca_pem, certificate_pem=certificate, key_pem=key_pem
    )
    checkpoint = Checkpoint(config.state_dir, uid_base=config.uid_base)
    try:
        checkpoint.put_node(node)
        host = address.rpartition(":")[0]
        checkpoint.put_controllers(config.controllers or (f"{host}:{CONTROLLER_PORT}",))
    finally:
        checkpoint.close()
