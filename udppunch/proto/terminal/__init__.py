"""The chat in a terminal or a pipe: what is typed, what is written, and nothing of the system."""
