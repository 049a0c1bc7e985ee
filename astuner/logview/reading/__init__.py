"""Finds runs and reads what they wrote, also while they write it. Says nothing of how it looks."""
