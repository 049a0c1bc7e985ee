"""How much of a model's or a caller's text a message quotes."""

SHOWN_CHARACTERS = 160
"""Longest piece of a reply that a reason quotes."""


def excerpt(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "…"
