"""Arithmetic of reinforcement learning, chosen by name from tables. No I/O, no model."""
