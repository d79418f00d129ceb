"""Changes are shown as operators write them."""

from __future__ import annotations

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
