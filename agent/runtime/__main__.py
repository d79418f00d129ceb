"""`bayplan-runtime`: the runtime on the command line, as engines call it."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence

from agent.runtime.cli import arguments, control, inspect, launch
from agent.runtime.cli.log import Log
from agent.runtime.failure import RuntimeFailure

_FAILED = 1
_VERBS = {
    "create": launch.create_, "run": launch.run, "start": launch.start_, "exec": launch.exec_,
    "state": inspect.state_, "list": inspect.list_, "ps": inspect.ps, "events": inspect.events,
    "spec": inspect.spec, "features": inspect.features, "kill": control.kill_,
    "delete": control.delete, "pause": control.pause_, "resume": control.resume,
    "update": control.update_,
}  # fmt: skip


def main(given: Sequence[str] | None = None) -> int:
    """Exit code: of the container's command for `run` and `exec` in the foreground (128 + the
    signal that ended it), else 0; 1 where a verb failed."""
    options = arguments.parser().parse_args(given)
    if options.version:
        sys.stdout.write(f"bayplan-runtime {inspect.VERSION}\nspec: {inspect.VERSION}\n")
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
        return _VERBS[options.verb](options, log)
    except (RuntimeFailure, OSError) as failure:
        if options.debug:
            traceback.print_exc()
        log.error(failure)
        return _FAILED


if __name__ == "__main__":
    sys.exit(main())
