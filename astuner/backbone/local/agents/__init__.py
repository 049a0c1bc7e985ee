"""Agents of a run in processes of their own, which ask the engine in the command's process."""
