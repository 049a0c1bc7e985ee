"""A checkpoint as what other programs load, verified in their runtime before it has its name."""
