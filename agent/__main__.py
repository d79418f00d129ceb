"""`bayplan-agent run` and `bayplan-agent join`."""

from __future__ import annotations

import argparse
import asyncio
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agent import config as configuration
from bayplan import log
from bayplan.model.errors import BayplanError


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--config", type=Path, help="default: /etc/bayplan/agent.yaml")
    common.add_argument("--state-dir", type=Path, help="default: /var/lib/bayplan/agent")
    common.add_argument("--name", help="name of this node; default: the host's name")
    common.add_argument(
        "--controller",
        action="append",
        dest="controllers",
        metavar="HOST:PORT",
        help="may be given several times",
    )
    common.add_argument(
        "--hollow",
        type=int,
        metavar="N",
        help="N hosts in one process whose containers exist in memory only, named after --name: "
        "for load on a controller",
    )
    common.add_argument("--log-level", default="info")
    parser = argparse.ArgumentParser(
        prog="bayplan-agent", description="Runs what a Bayplan controller assigns to this host."
    )
    commands = parser.add_subparsers(dest="command")
    run = commands.add_parser(
        "run", parents=[common], help="run the agent (the default)", allow_abbrev=False
    )
    run.add_argument("--cgroup-root", help="parent of the tasks' control groups")
    run.add_argument("--metrics-listen", metavar="HOST:PORT", help="default: 0.0.0.0:9443")
    run.add_argument("--runtime", help="default, and so far the only one: native")
    run.add_argument("--subnet", help="of the containers, instead of the one assigned")
    run.add_argument("--bridge", help="name of the containers' bridge; default: bay0")
    run.add_argument("--address", help="under which others reach this host")
    run.add_argument(
        "--registry",
        action="append",
        metavar="HOST:PORT",
        help="the cluster's own registry; may be given several times",
    )
    # Not abbreviated: `--token bay1…` must not pass for --token-file and be repeated in an error.
    join = commands.add_parser(
        "join", parents=[common], help="join a cluster with a token", allow_abbrev=False
    )
    join.add_argument(
        "--token-file", type=Path, help="file with the token; default: standard input"
    )
    return parser


def _settings(arguments: argparse.Namespace) -> dict[str, Any]:
    names = (
        "state_dir",
        "name",
        "cgroup_root",
        "metrics_listen",
        "runtime",
        "subnet",
        "bridge",
        "address",
    )
    found = {name: getattr(arguments, name, None) for name in names}
    if arguments.command == "run" and arguments.controllers:
        found["controllers"] = tuple(arguments.controllers)
    if arguments.command == "run" and arguments.registry:
        found["registry"] = tuple(arguments.registry)
    return found


def _run(config: configuration.AgentConfig) -> None:
    from agent import app

    with app.only_one(config.state_dir):
        # Not uvloop: it opens no netlink sockets, which the network needs.
        asyncio.run(app.main(config))


def _run_hollow(config: configuration.AgentConfig, count: int) -> None:
    # Imports grpc; no zygote is ever started in this process.
    from agent import app, hollow

    hollow.check(config, count)
    with app.only_one(config.state_dir):
        asyncio.run(hollow.run(config, count))


def _join_hollow(config: configuration.AgentConfig, arguments: argparse.Namespace) -> None:
    from agent import hollow
    from agent.join import read_tokens

    hollow.check(config, arguments.hollow)
    if len(arguments.controllers or ()) != 1:
        raise configuration.ConfigError("join --hollow needs one --controller HOST:7444")
    tokens = read_tokens(arguments.token_file)
    asyncio.run(hollow.join(config, arguments.controllers[0], tokens, arguments.hollow))
    print(f"{arguments.hollow} hollow hosts have joined; now start them")  # noqa: T201


def _join(config: configuration.AgentConfig, arguments: argparse.Namespace) -> None:
    # Imports grpc; no zygote is ever started in this process.
    from dataclasses import replace

    from agent.join import join, read_token

    if not arguments.controllers:
        raise configuration.ConfigError("join needs --controller HOST:7444")
    config = replace(config, name=config.name or socket.gethostname())
    token = read_token(arguments.token_file)
    problem: BayplanError | None = None
    for address in arguments.controllers:
        try:
            node = asyncio.run(join(config, address, token))
        except BayplanError as error:
            problem = error
            continue
        print(f"joined as {node.name}, subnet {node.subnet}; now start the agent")  # noqa: T201
        return
    if problem is not None:
        raise problem


def main(arguments: Sequence[str] | None = None) -> None:
    """Console entry. Exits with the code of the failure, after one sentence on stderr."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or (words[0].startswith("-") and words[0] not in ("-h", "--help")):
        words.insert(0, "run")
    parsed = _parser().parse_args(words)
    try:
        log.configure(parsed.log_level)
        config = configuration.load(parsed.config, _settings(parsed))
        if parsed.hollow is not None:
            if parsed.command == "join":
                _join_hollow(config, parsed)
            else:
                _run_hollow(config, parsed.hollow)
        elif parsed.command == "join":
            _join(config, parsed)
        else:
            _run(config)
    except BayplanError as error:
        print(f"bayplan-agent: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
