"""Token ids in, token ids and log-probabilities out: the protocol, and the engines over it."""
