"""udppunch gets UDP through NATs and firewalls: it punches, relays and exposes."""

__version__ = "0.1.0"
