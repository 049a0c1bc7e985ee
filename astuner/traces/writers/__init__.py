"""Traces as other programs read them, one format a file. Pure: what is written where, the command
decides."""
