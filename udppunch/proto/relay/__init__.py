"""The state machines of relaying: which peers are a channel, and who decides it."""
