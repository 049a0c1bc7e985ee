"""Which part of a text a later round asks about."""

import re

_UNIT_END = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])|\n+")
_MIN_UNIT_BYTES = 20
"""A shorter piece, such as a heading or `e.g.`, says too little to ask about. In UTF-8, where a
Chinese sign takes three."""


def focus_of(text: str, round_number: int) -> str:
    """One sentence or line. Rounds are counted from 1, the first after which something was asked.

    They go through the text by halves, quarters, eighths …, so that the first few spread over it.
    """
    pieces = [piece.strip() for piece in _UNIT_END.split(text)]
    units = [piece for piece in pieces if len(piece.encode("utf-8", "replace")) >= _MIN_UNIT_BYTES]
    units = units or [text.strip()]
    return units[int(_fraction_of_round(round_number) * len(units))]


def _fraction_of_round(round_number: int) -> float:
    """0, 1/2, 1/4, 3/4, 1/8 …: van der Corput's sequence."""
    digits = f"{round_number - 1:b}"
    return int(digits[::-1], 2) / 2 ** len(digits)
