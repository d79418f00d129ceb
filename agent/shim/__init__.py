"""The zygote and the shims it forks: one small process per container that outlives the agent.

agent ── socketpair (SOCK_SEQPACKET, one message per container) ──► zygote
                                                                      │ fork
agent ── stream of frames (`protocol`) ────────────────────────────► shim ──► container
                                                                      │ fork
agent ── stream of frames, one per session ─────────────────────► exec session
"""
