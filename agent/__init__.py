"""The daemon of a host: runs what the controller assigned, and goes on without it."""
