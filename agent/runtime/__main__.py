"""`bayplan-runtime`: the runtime on the command line, as engines call it."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Sequence

from agent.runtime.cli import arguments
from agent.runtime.cli.log import Log
from agent.runtime.failure import RuntimeFailure
from agent.runtime.state import OCI_VERSION

_FAILED = 1
# Loaded when it is needed: most calls only look or signal, and need not wait for the rest.
_VERBS = {
    "create": "launch.create_", "run": "launch.run", "exec": "launch.exec_",
    "start": "control.start_", "kill": "control.kill_", "delete": "control.delete",
    "pause": "control.pause_", "resume": "control.resume", "update": "control.update_",
    "state": "inspect.state_", "list": "inspect.list_", "events": "inspect.events",
    "ps": "ps.ps", "spec": "document.spec", "features": "document.features",
}  # fmt: skip


def main(given: Sequence[str] | None = None) -> int:
    """Exit code: of the container's command for `run` and `exec` in the foreground (128 + the
    signal that ended it), else 0; 1 where a verb failed."""
    options = arguments.parser().parse_args(given)
    if options.version:
        sys.stdout.write(f"bayplan-runtime version {OCI_VERSION}\nspec: {OCI_VERSION}\n")
        return 0
    log = Log(path=options.log, form=options.log_format)
    if options.verb is None:
        log.error(RuntimeFailure("give a verb; --help lists them"))
        return _FAILED
    try:
        if options.systemd_cgroup:
            raise RuntimeFailure(
                "--systemd-cgroup is not supported: this runtime makes its cgroups itself; set "
                "the engine's cgroup manager to cgroupfs"
            )
        if options.rootless == "true" or os.geteuid():
            raise RuntimeFailure("this runtime needs root")
        module, _, name = _VERBS[options.verb].partition(".")
        verb = getattr(importlib.import_module(f"agent.runtime.cli.{module}"), name)
        return int(verb(options, log))
    except (RuntimeFailure, OSError) as failure:
        if options.debug:
            traceback.print_exc()
        log.error(failure)
        return _FAILED


if __name__ == "__main__":
    sys.exit(main())
