"""Episodes as people and programs read them after a run."""
