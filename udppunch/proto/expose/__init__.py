"""The state machines of exposing: tags, exposers, and whom a helper believes."""
