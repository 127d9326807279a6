"""The state machines of punching: rendezvous, paths, and what keeps them alive."""
