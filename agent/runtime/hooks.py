"""Hooks: the operator's programs at six points of a container's life (config.md, "POSIX-platform
Hooks"). The state goes in by a file in memory on their stdin, so that one that does not read it
holds nothing up."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
from collections.abc import Mapping, Sequence

from agent.runtime.failure import RuntimeFailure, reason
from agent.runtime.spec import Hook
from agent.syscalls import processes

_OUTPUT_MAX_BYTES = 500


def run(hooks: Sequence[Hook], state: Mapping[str, object]) -> None:
    """Run them in order, in the caller's namespaces. RuntimeFailure at the first that cannot be
    started, exits with other than 0 or takes longer than its timeout (it is then killed)."""
    for hook in hooks:
        _run(hook, json.dumps(state).encode())


def run_all(hooks: Sequence[Hook], state: Mapping[str, object]) -> list[str]:
    """Run them all, whatever becomes of them; what went wrong is returned as warnings."""
    warnings: list[str] = []
    for hook in hooks:
        try:
            run([hook], state)
        except RuntimeFailure as failure:
            warnings.append(str(failure))
    return warnings


def _run(hook: Hook, state: bytes) -> None:
    with contextlib.ExitStack() as opened:
        stdin = os.memfd_create("state")
        opened.callback(os.close, stdin)
        os.write(stdin, state)
        os.lseek(stdin, 0, os.SEEK_SET)
        output = os.memfd_create("output")
        opened.callback(os.close, output)
        pid = _spawn(hook, stdin, output)
        status = _wait(hook, pid)
        if status:
            how = f"ended by signal {-status}" if status < 0 else f"exited with {status}"
            size = os.fstat(output).st_size
            said = os.pread(output, _OUTPUT_MAX_BYTES, max(size - _OUTPUT_MAX_BYTES, 0))
            text = said.decode(errors="replace").strip()
            raise RuntimeFailure(f'"{hook.path}" {how}' + (f": {text}" if text else ""), hook.field)


def _spawn(hook: Hook, stdin: int, output: int) -> int:
    env = dict(variable.partition("=")[::2] for variable in hook.env)
    actions = [(os.POSIX_SPAWN_DUP2, stdin, 0), (os.POSIX_SPAWN_DUP2, output, 1),
               (os.POSIX_SPAWN_DUP2, output, 2)]  # fmt: skip
    try:
        return os.posix_spawn(
            hook.path, hook.args or (hook.path,), env, file_actions=actions, setpgroup=0,
            setsigmask=(), setsigdef=(signal.SIGPIPE, signal.SIGXFSZ),
        )  # fmt: skip
    except OSError as error:
        raise RuntimeFailure(
            f'cannot run "{hook.path}": {reason(error)}', f"{hook.field}.path"
        ) from error


def _wait(hook: Hook, pid: int) -> int:
    """Its exit code, or minus the signal that ended it."""
    if hook.timeout_s is not None:
        pidfd = processes.pidfd_open(pid)
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        ended = poll.poll(hook.timeout_s * 1000)
        os.close(pidfd)
        if not ended:
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise RuntimeFailure(
                f'"{hook.path}" took longer than its timeout of {hook.timeout_s} s', hook.field
            )
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
