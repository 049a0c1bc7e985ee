"""Runs workflows on tasks: episodes, their groups, and the pool that bounds them."""
