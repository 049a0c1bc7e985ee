"""Tasks out of traces: which conversations, which turn of each, with which reference.

A table of small steps, each of which takes candidates and keeps, changes or drops them, with a
reason.
Knows no source.
"""
