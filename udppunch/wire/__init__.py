"""Bytes to values and values to bytes: a module for each protocol; no state, no I/O."""
