"""Which parts of a text are code, a heading or strong: a light reading of Markdown.

Gives parts that concatenate to the text, so nothing is lost or made up, and copying gives the text
as it is. Makes no HTML and knows no links or pictures: a text of a model never points anywhere.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Kind = Literal["text", "mark", "code", "inline", "strong", "heading"]
"""`mark` is what Markdown is written with, such as a fence: hidden where a text is rendered."""

_FENCE = re.compile(r"^[ ]{0,3}(`{3,}|~{3,})[^\n`]*(?:\n|\Z)", re.MULTILINE)
_LINE = re.compile(
    r"(?P<hash>^\#{1,6}[ ]+)(?P<heading>[^\n]+)"
    r"|(?P<tick>`)(?P<inline>[^`\n]+)`"
    r"|(?P<star>\*\*)(?P<strong>[^*\n]+)\*\*",
    re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class TextPart:
    kind: Kind
    text: str


def parts_of(text: str) -> list[TextPart]:
    """The parts of a text, in order; a fence that is never closed reaches to the end."""
    parts: list[TextPart] = []
    place = 0
    while fence := _FENCE.search(text, place):
        parts += _lines(text[place : fence.start()])
        parts.append(TextPart("mark", fence.group()))
        closing = re.compile(
            rf"^[ ]{{0,3}}{fence[1][0]}{{{len(fence[1])},}}[ \t]*(?:\n|\Z)", re.MULTILINE
        ).search(text, fence.end())
        end = closing.start() if closing else len(text)
        if end > fence.end():
            parts.append(TextPart("code", text[fence.end() : end]))
        if closing:
            parts.append(TextPart("mark", closing.group()))
        place = closing.end() if closing else end
        if place >= len(text):
            return parts
    return parts + list(_lines(text[place:]))


def _lines(text: str) -> Iterator[TextPart]:
    place = 0
    for found in _LINE.finditer(text):
        if found.start() > place:
            yield TextPart("text", text[place : found.start()])
        if found["hash"]:
            yield TextPart("mark", found["hash"])
            yield TextPart("heading", found["heading"])
        else:
            mark = found["tick"] or found["star"]
            yield TextPart("mark", mark)
            yield (
                TextPart("inline", found["inline"])
                if found["tick"]
                else TextPart("strong", found["strong"])
            )
            yield TextPart("mark", mark)
        place = found.end()
    if place < len(text):
        yield TextPart("text", text[place:])
