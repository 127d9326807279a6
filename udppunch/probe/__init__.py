"""What short commands say to servers on the network, and how long they wait for an answer."""
