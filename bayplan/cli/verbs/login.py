"""bay login: a one-time token for a certificate."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

import click

from bayplan.cli.settings import Settings, verb
from bayplan.model.errors import BayplanError, InvalidSpec

if TYPE_CHECKING:
    from bayplan.contexts import Context

CONTROL_PORT = 7443
JOIN_PORT = 7444
TOKEN_BYTES_MAX = 4096


@verb("login")
@click.argument("address", metavar="HOST[:PORT]")
@click.option(
    "--name", metavar="CONTEXT", default="", help="name of the context; default: the host"
)
@click.option("--token-file", type=click.File("r"), help="read the token from here")
def command(settings: Settings, address: str, name: str, token_file: click.File | None) -> None:
    """Get a certificate for a token of `bay user token`, and use this cluster from now on.

    PORT is the one for joining (7444). The token is asked for, or read from stdin or --token-file;
    it never stands in the command line. The controllers are HOST:7443 unless --controller says
    otherwise.
    """
    host, port = split_address(address)
    text = token_file.read(TOKEN_BYTES_MAX) if token_file else _ask()  # type: ignore[attr-defined]
    controllers = settings.controllers or (f"{host}:{CONTROL_PORT}",)
    context = asyncio.run(_login(f"{host}:{port}", text, name or host.strip("[]"), controllers))
    registries = _registries(context)
    print(f"logged in; context {context.name} is in use")
    if registries:
        _remember(context, registries)


def split_address(address: str) -> tuple[str, int]:
    """`HOST` or `HOST:PORT`; an IPv6 address with a port stands in brackets."""
    host, colon, port = address.rpartition(":")
    if not colon or (":" in host and not host.startswith("[")):
        host, port = (f"[{address}]" if ":" in address else address), str(JOIN_PORT)
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise InvalidSpec(f'"{address}" is not an address', hint="write HOST or HOST:PORT")
    return host, int(port)


def _ask() -> str:
    if sys.stdin.isatty():
        return str(click.prompt("Token", hide_input=True, err=True))
    return sys.stdin.readline(TOKEN_BYTES_MAX)


async def _login(address: str, text: str, name: str, controllers: tuple[str, ...]) -> Context:
    from bayplan import client, pki
    from bayplan.contexts import Context, check_name, load_config, save_config, store_credentials

    check_name(name.replace(":", "-"))
    name = name.replace(":", "-")
    token = pki.parse_token(text)
    ca_pem = await client.fetch_ca(address, token.ca_digest)
    key_pem = pki.make_key()
    answer = await client.login(
        address, ca_pem, token=token.text(), csr_pem=pki.make_csr(key_pem, "operator")
    )
    config = load_config()
    ca, cert, key = store_credentials(
        config,
        name,
        ca_pem=answer.ca_certificate_pem or ca_pem,
        certificate_pem=answer.certificate_pem,
        key_pem=key_pem,
    )
    made = Context(name=name, controllers=controllers, ca=ca, cert=cert, key=key)
    save_config(config.with_context(made))
    return made


def _registries(context: Context) -> tuple[str, ...]:
    """Where the controllers' registries are, of those that answer here."""
    found = []
    for address in context.controllers:
        asked = Settings(context=context.name, controllers=(address,), timeout_s=10.0, quiet=True)
        try:
            found.append(asked.call(lambda client: client.get_version()).registry_address)
        except BayplanError as error:
            print(f"bay: {error}; the certificate is kept", file=sys.stderr)
    return tuple(found)


def _remember(context: Context, registries: tuple[str, ...]) -> None:
    from dataclasses import replace

    from bayplan.contexts import load_config, save_config

    config = load_config()
    chosen = replace(config.choose(context.name), registries=registries)
    save_config(config.with_context(chosen))
