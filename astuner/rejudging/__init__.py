"""Judging recorded episodes again: how far judges agree, and whether one can be gamed.

Reads runs and never writes into them. Knows no engine and no workflow.
"""
