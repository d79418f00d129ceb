"""The OCI runtime specification 1.2, clause by clause, over the command line of a runtime."""
