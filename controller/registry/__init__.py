"""The built-in OCI registry: a process of its own, so that large pushes and pulls never hold up
the controller."""
