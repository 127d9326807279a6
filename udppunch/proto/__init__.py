"""State machines of the protocols: datagrams, `now` and random bytes go in, datagrams come out."""
