"""What goes wrong with a copy, in one sentence."""

from __future__ import annotations


class CopyFailure(Exception):
    """The message is for the operator."""
