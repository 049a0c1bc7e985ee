"""Text of others that a terminal prints and never obeys."""

import re

_OBEYED = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # escapes, cursor, bell; all controls but tab and line end
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # which turn the order of what follows
    "\u2028\u2029"  # line ends to some, and to others none
    "\ud800-\udfff]"  # halves of a character, which no terminal can be sent
)


def visible(text: str) -> str:
    """The text with whatever could move a cursor, change colours or reorder a line as its escape.

    Tabs and line ends stay, and so do right-to-left letters.
    """
    return _OBEYED.sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    return {0x0D: "\\r"}.get(code, f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")
