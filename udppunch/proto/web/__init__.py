"""The chat's web page as a state machine: HTTP and WebSocket without sockets or clocks."""
