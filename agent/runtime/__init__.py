"""The OCI runtime: create, start, exec, kill, pause, update, state, delete, each a module."""
