"""Changes are shown as operators write them."""

from __future__ import annotations

import pytest

from bayplan.model.service import ServiceSpec
from bayplan.spec import parse
from controller.server.diff import summary

SPEC = """\
kind: Service
name: web
image: web:1
command: [/bin/app, --verbose]
files: {/run/key: {secret: web/key, mode: "0440"}}
placement: {require: [label.disk == ssd, "attr.arch in (amd64, arm64)"]}
"""


def test_a_new_service_reads_as_it_was_typed() -> None:
    """Modes in octal, expressions apart, words of a command together."""
    (document,) = parse(SPEC)
    assert isinstance(document.object, ServiceSpec)
    lines = summary(None, document.object)
    assert "files /run/key mode: 0440" in lines
    assert "placement require: label.disk == ssd, attr.arch in (amd64, arm64)" in lines
    assert "command: /bin/app --verbose" in lines


def spec_of(text: str) -> ServiceSpec:
    (document,) = parse(text)
    assert isinstance(document.object, ServiceSpec)
    return document.object


WEB = """\
kind: Service
name: web
image: web:1
ports: {http: 8080}
health: {http: {port: http}, interval: 1s}
update: {progress_deadline: 2m, monitor: 1m30s}
"""


def test_only_what_was_typed_is_shown() -> None:
    """Durations with the units one types; no defaults, also not those of a part that is new."""
    assert summary(None, spec_of(WEB)) == [
        "image: web:1",
        "ports http container: 8080",
        "health http port: http",
        "health interval: 1s",
        "update monitor: 1m30s",
        "update progress_deadline: 2m",
    ]


@pytest.mark.parametrize(
    ("kind", "typed"),
    [
        ("kind: Job\ncompletions: 3", ["image: a:1", "completions: 3"]),
        ('kind: Cron\nschedule: "0 3 * * *"', ["image: a:1", "schedule: 0 3 * * *"]),
        ("kind: Daemon", ["image: a:1"]),
    ],
    ids=["job", "cron", "daemon"],
)
def test_what_a_kind_has_without_being_asked_is_not_shown(kind: str, typed: list[str]) -> None:
    """A job does not restart in place, a daemon's node has one task of it: nobody typed that."""
    assert summary(None, spec_of(f"{kind}\nname: x\nimage: a:1\n")) == typed


def test_what_changes_is_shown_with_both_ends() -> None:
    """A default that is given up or gone back to counts; a part that goes says what was typed."""
    other = """\
kind: Service
name: web
image: web:1
env: {EMPTY: ""}
ports: {http: 8080}
stop: {grace: 1m}
update: {max_surge: 0, max_unavailable: 1}
"""
    assert sorted(summary(spec_of(WEB), spec_of(other))) == [
        'env EMPTY: added: ""',
        "health http port: removed (was http)",
        "health interval: removed (was 1s)",
        "stop grace: 10s -> 1m",
        "update max_surge: 1 -> 0",
        "update max_unavailable: added: 1",
        "update monitor: 1m30s -> 5s",
        "update progress_deadline: 2m -> 10m",
    ]
    assert summary(spec_of(WEB), spec_of(WEB)) == []
