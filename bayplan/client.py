"""Typed asynchronous client of the Control service."""
