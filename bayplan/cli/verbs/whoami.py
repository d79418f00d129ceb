"""bay whoami."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from bayplan.cli.settings import Settings, verb

if TYPE_CHECKING:
    from bayplan.client import Client


@verb("whoami")
def command(settings: Settings) -> None:
    """The name, role and grants of your certificate, as the cluster sees them."""

    async def show(client: Client) -> None:
        from bayplan import pki
        from bayplan.cli import render
        from bayplan.cli.verbs.describe import fields

        caller = (await client.get_version()).caller
        if settings.output in ("json", "yaml"):
            render.show_message(caller, settings.output)
            return
        role = render.word(caller, "role")
        context = settings.chosen()
        until = pki.expires_at(context.cert.read_bytes()) - time.time()
        render.show(
            fields(
                [
                    ("name", caller.name),
                    ("role", role),
                    ("exec", "yes" if caller.exec or role == "admin" else "no"),
                    ("context", context.name),
                    ("certificate", f"good for {render.span(until)}, renewed before it ends"),
                ]
            )
        )

    settings.call(show)
