"""The leader's loops: wake, decide, commit; and its sessions with the agents."""
