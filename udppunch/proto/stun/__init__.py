"""STUN's state machines: what a server answers, and what a client finds out about its NAT."""
