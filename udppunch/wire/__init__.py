"""Bytes to values and values to bytes: one module per protocol or serialisation, no state, no I/O."""
