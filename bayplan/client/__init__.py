"""Typed asynchronous client of a controller: what operators call, and joining.

Requests and answers are the messages of `control.proto`; failures are the classes of
`bayplan.model.errors`. The client knows several controllers: it follows a follower's word to the
leader, tries the next address where one does not answer, and says what it waits for.
"""

from bayplan.client.calls import NOT_REPEATABLE, PATIENCE_S
from bayplan.client.channel import (
    CHANNEL_OPTIONS,
    CONNECT_S,
    DEADLINE_S,
    GONE_KEY,
    Credentials,
    channel_options,
    patient,
)
from bayplan.client.failures import CODE_KEY, HINT_KEY, LEADER_KEY, domain_error, met_slowly
from bayplan.client.joining import fetch_ca, join_node, login
from bayplan.client.operators import Client
from bayplan.pki import SERVER_NAME

__all__ = [
    "CHANNEL_OPTIONS",
    "CODE_KEY",
    "CONNECT_S",
    "Client",
    "Credentials",
    "DEADLINE_S",
    "GONE_KEY",
    "HINT_KEY",
    "LEADER_KEY",
    "NOT_REPEATABLE",
    "PATIENCE_S",
    "SERVER_NAME",
    "channel_options",
    "domain_error",
    "fetch_ca",
    "join_node",
    "login",
    "met_slowly",
    "patient",
]
