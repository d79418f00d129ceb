"""What all verbs have in common: their options, and the way to a controller."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import click

from bayplan.model.errors import BayplanError, DeadlineExceeded, InvalidSpec

if TYPE_CHECKING:
    from bayplan.client import Client
    from bayplan.contexts import Context

T = TypeVar("T")

OUTPUTS = ("table", "wide", "json", "yaml")
CALL_TIMEOUT_S = 30.0
ROLLOUT_TIMEOUT_S = 900.0


@dataclass(slots=True)
class Settings:
    """Options that stand before or after the verb; `timeout_s` None: the verb's own."""

    context: str = ""
    controllers: tuple[str, ...] = ()
    namespace: str | None = None
    output: str = "table"
    timeout_s: float | None = None
    waits_for: str = ""
    quiet: bool = False
    _told: set[str] = field(default_factory=set)

    def in_namespace(self) -> str:
        return self.namespace or "default"

    def wait(self, sentence: str) -> None:
        """Say once on stderr what is waited for."""
        self.waits_for = sentence
        if sentence not in self._told and not self.quiet:
            self._told.add(sentence)
            print(f"bay: {sentence}", file=sys.stderr, flush=True)

    def chosen(self) -> Context:
        """The context. Raises NotFound, InvalidSpec."""
        from bayplan.contexts import load_config

        return load_config().choose(self.context)

    def client(self) -> Client:
        """A client of the context's controllers, to be used as a context manager."""
        from bayplan.client import PATIENCE_S, Client, Credentials

        context = self.chosen()
        # Shorter than the whole, so that who does not answer is told rather than that time is up.
        patience_s = min(PATIENCE_S, 0.7 * (self.timeout_s or CALL_TIMEOUT_S))
        return Client(
            self.addresses(),
            Credentials.from_files(context.ca, context.cert, context.key),
            on_wait=self.wait,
            patience_s=patience_s,
        )

    def addresses(self) -> tuple[str, ...]:
        """HOST:PORT of the controllers that are known here."""
        return self.controllers or self.chosen().controllers

    def client_of(self, address: str) -> Client:
        """A client of one controller, which does not wait for it."""
        from bayplan.client import Client, Credentials

        context = self.chosen()
        credentials = Credentials.from_files(context.ca, context.cert, context.key)
        return Client((address,), credentials, patience_s=0.0)

    def call(
        self, work: Callable[[Client], Coroutine[Any, Any, T]], *, unbounded: bool = False
    ) -> T:
        """Run `work` with a client, within `--timeout` (30 s) unless it goes on until it is
        interrupted or has a deadline of its own. Raises DeadlineExceeded."""
        limit_s = None if unbounded else (self.timeout_s or CALL_TIMEOUT_S)

        async def bounded() -> T:
            async with self.client() as client:
                try:
                    async with asyncio.timeout(limit_s):
                        result = await work(client)
                except TimeoutError:
                    waited = f"; {self.waits_for}" if self.waits_for else ""
                    raise DeadlineExceeded(
                        f"no answer within {limit_s:g}s{waited}",
                        hint="check the controller, or give more time with --timeout",
                    ) from None
                await _renewed(self, client)
                return result

        return asyncio.run(bounded())


async def tell_if_frozen(client: Client) -> None:
    """Say on stderr what the cluster withholds, and why, where it does."""
    if reason := (await client.get_version()).frozen_reason:
        print(f"bay: {reason}", file=sys.stderr)


async def _renewed(settings: Settings, client: Client) -> None:
    """A certificate that is two thirds through its life is replaced, with the same key, so that
    one file changes at once. What fails is told and tried again at the next call."""
    from bayplan import pki

    context = settings.chosen()
    certificate = context.cert.read_text(encoding="utf-8")
    if pki.renew_at(certificate) > time.time():
        return
    try:
        name = pki.peer_identity(certificate).name
        request = pki.make_csr(context.key.read_bytes(), name)
        async with asyncio.timeout(CALL_TIMEOUT_S):
            answer = await client.renew_certificate(request)
        pki.write_private(context.cert, answer.certificate_pem)
    except (BayplanError, OSError, TimeoutError) as error:
        print(f"bay: the certificate could not be renewed: {error}", file=sys.stderr)


def _seconds(_: click.Context, __: click.Parameter, value: str | None) -> float | None:
    return None if value is None else parse_duration(value)


def parse_duration(text: str) -> float:
    """`30s` to 30.0. Raises InvalidSpec."""
    from bayplan.spec.units import NotAnAmount, duration_s

    try:
        return duration_s(text)
    except NotAnAmount as error:
        raise InvalidSpec(str(error)) from None


def parse_namespace(text: str) -> str:
    """The name of a namespace. Raises InvalidSpec: nothing can be in one with another name."""
    from bayplan.model.validate.names import check_name

    for problem in check_name(text, ()):
        raise InvalidSpec(f"namespace: {problem.message}")
    return text


def token_lifetime(text: str) -> float:
    """Like `parse_duration`, and not nothing, which a controller takes for its default."""
    lifetime_s = parse_duration(text)
    if not lifetime_s:
        raise InvalidSpec("a token of no lifetime lets nobody in", hint="e.g. --lifetime 15m")
    return lifetime_s


def _keep(name: str) -> Callable[[click.Context, click.Parameter, Any], Any]:
    def callback(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
        if parameter.name == "timeout":
            value = _seconds(context, parameter, value)
        if parameter.name == "namespace" and value is not None:
            value = parse_namespace(value)
        if value not in (None, (), ""):
            setattr(context.ensure_object(Settings), name, value)
        return value

    return callback


def shared_options() -> list[click.Option]:
    """The options of `bay` itself, which every verb takes as well."""
    made = [
        (["-n", "--namespace"], "namespace", {"metavar": "NAME", "help": "namespace of names"}),
        (
            ["-o", "--output"],
            "output",
            {"type": click.Choice([*OUTPUTS, "spec"]), "help": "form of the output"},
        ),
        (["--context"], "context", {"metavar": "NAME", "help": "context to use"}),
        (
            ["--controller", "controllers"],
            "controllers",
            {"metavar": "HOST:PORT", "multiple": True, "help": "instead of the context's"},
        ),
        (["--timeout"], "timeout_s", {"metavar": "TIME", "help": "longest wait, e.g. 30s"}),
    ]
    return [
        click.Option(names, expose_value=False, callback=_keep(target), **more)  # type: ignore[arg-type]
        for names, target, more in made
    ]


class Verb(click.Command):
    """A command that takes the shared options after its own."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += shared_options()


def verb(name: str, **more: Any) -> Callable[[Callable[..., Any]], Verb]:
    """Make a function a verb; it gets the Settings as its first argument."""

    def decorate(function: Callable[..., Any]) -> Verb:
        return click.command(name, cls=Verb, **more)(pass_settings(function))

    return decorate


pass_settings = click.make_pass_decorator(Settings, ensure=True)
