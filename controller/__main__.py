"""`bayplan-controller`, or `python -m controller`."""

from __future__ import annotations

import os
import sys
from typing import Final

import bayplan
from bayplan import log as logging
from bayplan.model.errors import BayplanError
from controller.config import ConfigError, load

SWITCH_INTERVAL_S: Final = 0.0005
"""How long a busy thread (the scheduler's) keeps the interpreter from the event loop. At Python's
default of 5 ms each turn of the loop was seen to cost 20 ms."""


def main() -> int:
    """Exit codes: 0 stopped as asked, 2 a setting is wrong, else those of BayplanError."""
    arguments = sys.argv[1:]
    if arguments == ["--version"]:
        print(bayplan.__version__)  # noqa: T201
        return 0
    try:
        config = load(arguments, os.environ)
    except ConfigError as error:
        print(f"bayplan-controller: {error}", file=sys.stderr)  # noqa: T201
        return ConfigError.exit_code
    logging.configure(config.log_level)
    # Read when grpc is imported: children are only ever executed, never forked to stay.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    # What fails is said by us, a sentence each; gRPC's own lines would stand among the JSON.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    import uvloop

    from controller import app

    sys.setswitchinterval(SWITCH_INTERVAL_S)
    try:
        uvloop.run(app.main(config))
    except BayplanError as error:
        print(f"bayplan-controller: {error}", file=sys.stderr)  # noqa: T201
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
