"""Spec and image configuration -> OCI config.json. Pure."""
