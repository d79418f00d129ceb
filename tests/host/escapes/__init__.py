"""Attempts to get out of a container, from inside it and by its image."""
