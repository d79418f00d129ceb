"""Commands, and the checks that tell whether a task is healthy."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from bayplan.model.service import HealthCheck, NetworkMode, Port
from bayplan.model.validate.problems import Path, Problem

WORDS_MAX = 1_000
WORDS_BYTES_MAX = 131_072
TIMEOUT_S_MAX = 3600.0


def check_words(words: tuple[str, ...], path: Path) -> Iterator[Problem]:
    """A command or its arguments."""
    if len(words) > WORDS_MAX or sum(map(len, words)) > WORDS_BYTES_MAX:
        yield Problem(path, f"is too long; at most {WORDS_MAX} words, {WORDS_BYTES_MAX} characters")
    if any("\0" in w for w in words):
        yield Problem(path, "holds a NUL character; leave it out")
    if words and not words[0] and path == ("command",):
        yield Problem(path, "begins with an empty word; write the program to run")


def check_health(
    check: HealthCheck, ports: tuple[Port, ...], network: NetworkMode
) -> Iterator[Problem]:
    """The check itself, and the port it asks."""
    path: Path = ("health",)
    kinds = [k for k in ("exec", "tcp", "http") if getattr(check, k) is not None]
    if not kinds:
        yield Problem(path, "has none of exec, tcp and http; write e.g. http: {port: http}")
    if len(kinds) > 1:
        yield Problem(path, f"has {' and '.join(kinds)} at once; leave one out")
    if check.exec is not None:
        if not check.exec.command:
            yield Problem((*path, "exec", "command"), "is empty; write e.g. [/bin/healthy]")
        yield from check_words(check.exec.command, (*path, "exec", "command"))
    if check.tcp is not None:
        yield from _health_port(check.tcp.port, (*path, "tcp", "port"), ports, network)
    if check.http is not None:
        yield from _health_port(check.http.port, (*path, "http", "port"), ports, network)
        if not re.fullmatch(r"/[\x21-\x7e]*", check.http.path):
            yield Problem(
                (*path, "http", "path"),
                f'"{check.http.path[:80]}" is not a path; write e.g. /healthz',
            )
    if check.interval_s < 0.1:
        yield Problem((*path, "interval"), "is too short; write at least 100ms")
    if not 0 < check.timeout_s <= TIMEOUT_S_MAX:
        yield Problem((*path, "timeout"), "is out of range; write e.g. 2s")
    if check.start_period_s < 0:
        yield Problem((*path, "start_period"), "is less than nothing; write e.g. 20s")
    if not 1 <= check.retries <= 1000:
        yield Problem((*path, "retries"), f"{check.retries} is out of range; write 1 to 1000")


def _health_port(
    name: str, path: Path, ports: Iterable[Port], network: NetworkMode
) -> Iterator[Problem]:
    by_name = {p.name: p for p in ports}
    if network is NetworkMode.NONE:
        yield Problem(path, "cannot be reached with network: none; write an exec check")
    elif name not in by_name:
        known = ", ".join(by_name) or "none; write e.g. ports: {http: 8080}"
        yield Problem(path, f'"{name[:80]}" is not a port of this service; it has {known}')
    elif str(by_name[name].protocol) != "tcp":
        yield Problem(path, f'"{name}" is a udp port; check a tcp port, or write an exec check')
