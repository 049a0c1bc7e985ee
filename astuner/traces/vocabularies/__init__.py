"""What the attributes of spans mean, one file for each set of names; pure functions."""
