"""Marks where a text of somebody else begins and ends in a prompt, so that it can be told to be
data. Whether a model keeps to that is the model's; that the text cannot end its mark is kept here.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator

_NAME = re.compile(r"[a-z][a-z_]*")
_NUM_DIGITS = 16


def fenced(text: str, name: str) -> str:
    """The text between `<name digits>` and `</name digits>`, lines of their own.

    The digits are a digest of the text that does not stand in it, so no text can close its fence,
    and equal texts give equal prompts, which a cache finds again. Half a surrogate pair, which
    cannot be sent, becomes a question mark. `name` is lower-case letters and underscores; raises
    ValueError for another.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} cannot name a fence; use lower-case letters and underscores")
    sound = text.encode("utf-8", "replace").decode()
    digits = first_absent(_digests(f"{name}\n{sound}"), sound)
    return f"<{name} {digits}>\n{sound}\n</{name} {digits}>"


def first_absent(marks: Iterable[str], text: str) -> str:
    """The first of these lower-case marks that does not stand in the text, in no case at all."""
    lowered = text.lower()
    return next(mark for mark in marks if mark not in lowered)


def _digests(text: str) -> Iterator[str]:
    """Of the text, of that digest, and so on."""
    while True:
        text = hashlib.sha256(text.encode()).hexdigest()
        yield text[:_NUM_DIGITS]
