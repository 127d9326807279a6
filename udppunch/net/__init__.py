"""Sockets, the selector loop and the clock: the only package with system calls."""
