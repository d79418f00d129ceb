"""The command line of an OCI runtime, as engines call it: runc's verbs and options."""
