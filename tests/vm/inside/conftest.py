"""One installed cluster of this guest alone, as an operator makes it by docs/operations.md."""

from __future__ import annotations

import subprocess
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.vm.inside.installed import AGENT, CONTROLLER, Installed

GUEST_MARK = Path("/usr/local/sbin/bayplan-job")
TIMEOUT_S = 600
JOURNAL_CHARS_MAX = 60_000
SERVICES = """\
kind: Service
name: web
image: web:1
replicas: 2
resources: {cpu: 0.5, memory: 64MiB, pids: 50}
health: {exec: {command: [cat, /www/healthz]}, interval: 5s, timeout: 20s, retries: 5}
stop: {grace: 5s}
update: {monitor: 1s, progress_deadline: 10m}
---
kind: Service
name: crowd
image: web:1
# The inner shell ends when it may not fork; what it started stays.
command: [sh, -c, '(while :; do sleep 9999 & done); sleep 9999']
resources: {pids: 20}
restart: {condition: always, delay: 60s}
update: {monitor: 1s, progress_deadline: 10m}
"""

# Outside the guest these would take over the machine.
collect_ignore_glob = [] if GUEST_MARK.exists() else ["test_*.py"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/vm/inside" in str(item.path):
            item.add_marker(pytest.mark.vm)
            item.add_marker(pytest.mark.timeout(TIMEOUT_S))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What the units said while the test ran comes along with its failure."""
    report = yield
    if report.failed and "tests/vm/inside" in str(item.path):
        since = f"--since=@{call.start:.0f}"
        command = ["journalctl", "--no-pager", "-o", "short-precise", since]
        command += ["-u", AGENT, "-u", CONTROLLER]
        said = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
        report.sections.append(("journal", said[-JOURNAL_CHARS_MAX:]))
    return report


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    """Controller and agent under systemd, joined by a token, two services running."""
    host = Installed(tmp_path_factory.mktemp("installed"))
    try:
        host.install()
        host.join()
        host.apply(SERVICES)
        host.running("web", 2)
        yield host
    finally:
        subprocess.run(["systemctl", "stop", "bayplan-agent", "bayplan-controller"], timeout=120)
