"""Runs that are over: what they take on the disk, and what of it may go."""
