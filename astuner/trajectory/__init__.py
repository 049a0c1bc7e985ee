"""From the calls of one episode to the sequences and samples that a backbone trains on."""
