"""What an agent decides, sans-I/O: `AgentCore.handle(event, now) -> commands`."""

from agent.core.agent import AgentCore

__all__ = ["AgentCore"]
