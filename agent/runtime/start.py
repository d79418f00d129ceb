"""start: let a created container execute its command."""

from __future__ import annotations

from agent.runtime import channel, hooks
from agent.runtime.container import Container, ContainerState
from agent.runtime.failure import RuntimeFailure
from agent.runtime.kill import kill_all
from agent.runtime.state import document


def start(container: Container) -> None:
    """Returns once execve has succeeded; RuntimeFailure says why it could not ("command "foo"
    not found in $PATH of the image"), and the container's process has then exited."""
    try:
        if not channel.tell(container.control, channel.START):
            raise RuntimeFailure("the container's process ended before it was started")
        if container.has_start_hooks:
            container.control.settimeout(None)
        channel.answer(container.control, "starting the command")
    finally:
        container.control.close()
    run_poststart(container.state)


def run_poststart(state: ContainerState) -> None:
    """The poststart hooks. One that fails ends the container (runtime.md, "Lifecycle", 1.2.1)."""
    try:
        hooks.run(state.hooks.poststart, document(state, "running"))
    except RuntimeFailure:
        kill_all(state.cgroup)
        raise


def outcome(control: int) -> RuntimeFailure | None:
    """For who told init to start by itself, once the channel is readable: why it could not. Not
    for a container with hooks to come."""
    try:
        return channel.failure(control)
    except ConnectionResetError:  # once, where our START was never read; what was said follows
        return channel.failure(control)
