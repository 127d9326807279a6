"""Introduction by name: who is registered where, and a peer's side of it."""
