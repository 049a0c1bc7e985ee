"""The fenced blocks of a reply, line by line: a search by pattern would read a reply of many
openings once for each of them."""

import re
from dataclasses import dataclass

_MARK = "```"
_LANGUAGE = re.compile(r"[ \t]*([\w+#-]*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class FencedBlock:
    """What stands between two fences."""

    language: str
    """As the opening fence has it; empty where it has none."""
    body: str


def fenced_blocks(text: str) -> list[FencedBlock]:
    """Those that are closed, in order."""
    found, language, begin, place = [], None, 0, 0
    for line in text.split("\n"):
        end = place + len(line) + 1
        if language is not None and line.strip(" \t\r") == _MARK:
            found.append(FencedBlock(language=language, body=text[begin:place]))
            language = None
        elif language is None:
            language, begin = _language_of_opening(line), end
        place = end
    return found


def _language_of_opening(line: str) -> str | None:
    """None where the line opens no block."""
    rest = line.lstrip(" \t")
    if not rest.startswith(_MARK) or "`" in rest[len(_MARK) :]:
        return None
    found = _LANGUAGE.match(rest, len(_MARK))
    return found[1] if found else ""
