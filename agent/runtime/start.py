"""start: let a created container execute its command."""

from __future__ import annotations

from agent.runtime import channel
from agent.runtime.container import Container
from agent.runtime.failure import RuntimeFailure


def start(container: Container) -> None:
    """Returns once execve has succeeded; RuntimeFailure says why it could not ("command "foo"
    not found in $PATH of the image"), and the container's process has then exited."""
    try:
        if not channel.tell(container.control, channel.START):
            raise RuntimeFailure("the container's process ended before it was started")
        channel.answer(container.control, "starting the command")
    finally:
        container.control.close()
