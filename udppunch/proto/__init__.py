"""State machines of the protocols: `now` and random bytes are passed in, datagrams go in and come out."""
