"""Worlds that people already have, a file each. Each imports its package when it is used."""
