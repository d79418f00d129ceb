"""start: let a created container execute its command."""

from __future__ import annotations

from agent.runtime import channel
from agent.runtime.container import Container


def start(container: Container) -> None:
    """Returns once execve has succeeded; RuntimeFailure says why it could not ("command "foo"
    not found in $PATH of the image"), and the container's process has then exited."""
    channel.tell(container.control, channel.START)
    try:
        channel.answer(container.control, "starting the command")
    finally:
        container.control.close()
