"""How much of a model's or a caller's text is quoted where something is said about it."""

SHOWN_CHARACTERS = 160
"""Longest piece that is quoted."""


def excerpt(text: str) -> str:
    """The text, or its beginning with an ellipsis."""
    return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "…"
