"""The one error that every decoder raises for bytes that are not what they should be."""

from __future__ import annotations


class Malformed(ValueError):
    """These bytes are not a message: whoever sent them is at fault, and they are dropped."""
