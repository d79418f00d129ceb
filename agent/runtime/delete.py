"""delete: what a container leaves on the host. Its mounts live in its own mount namespace and
went with its last process, so only the cgroups remain."""

from __future__ import annotations

from agent.runtime import hooks
from agent.runtime.cgroups.hierarchy import remove
from agent.runtime.container import ContainerState
from agent.runtime.failure import RuntimeFailure
from agent.runtime.kill import kill_all
from agent.runtime.state import document, running


def delete(state: ContainerState, *, force: bool = False) -> list[str]:
    """Remove the cgroups of a stopped container. `force` kills a running one; its parent has to
    reap it for the cgroups to go. Deleting twice does nothing but run the poststop hooks again.
    Returns their failures, which hold nothing up, as warnings."""
    if running(state):
        if not force:
            raise RuntimeFailure(f"container {state.uid} is running; stop it or use force")
        kill_all(state.cgroup)
    remove(state.cgroup)
    return hooks.run_all(state.hooks.poststop, document(state, "stopped"))
