"""One class per role, all alike (contract.Role): what a datagram means, and where it goes next."""
