"""Short pieces of what a server or a model said, for messages."""

_MAX_CHARACTERS = 200


def short(text: object) -> str:
    """The beginning of a text on one line."""
    line = " ".join(str(text).split())
    return line if len(line) <= _MAX_CHARACTERS else f"{line[:_MAX_CHARACTERS]}…"
