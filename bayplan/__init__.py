"""What the controller, the agent and the operator's command line share."""

__version__ = "0.1.0"
