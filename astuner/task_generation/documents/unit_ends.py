"""Where lines, paragraphs and sentences of a text end.

Sentences by rules for languages with spaces and full stops, and for Chinese and Japanese. Where a
rule is in doubt, no sentence ends: two in one are better than one in two. Each function takes time
linear in the text, whatever it holds.
"""

import re
from collections.abc import Callable, Iterator

EndFinder = Callable[[str, int, int], Iterator[int]]
"""Given a text and a span of it: the ends of its units, white space behind them included, in order;
that of the last one need not be among them."""

_BLANK_LINES = r"(?:[^\S\n]*+\n)"
_LINE_END = re.compile(rf"\n{_BLANK_LINES}*+")
_PARAGRAPH_END = re.compile(rf"\n{_BLANK_LINES}++")
_CLOSING = "\"'\u201d\u2019\u00bb)\\]*_"
_CLOSING_WIDE = "\u300d\u300f\u201d\u2019\uff09\u3011\u300b\u3009\"')"
_SENTENCE_END = re.compile(
    # Behind a full stop and the like of scripts with spaces: Latin, Greek, Cyrillic, Arabic, Hindi.
    rf"(?P<stop>(?<![.!?\u2026])[.!?\u2026\u061f\u06d4\u0964\u0965]++[{_CLOSING}]*+\s++)"
    # Behind those of Chinese and Japanese.
    rf"|[\u3002\uff01\uff1f\uff61\uff0e]++[{_CLOSING_WIDE}]*+\s*+"
    # Behind a paragraph, and before an item of a list, a row of a table, a quotation, a heading.
    rf"|{_PARAGRAPH_END.pattern}"
    r"|\n(?=[^\S\n]*+(?:[>|]|(?:[-*+\u2022]|\#{1,6}|\d{1,9}[.)])[^\S\n]))"
)
_ABBREVIATIONS = frozenset(
    re.findall(
        r"\w+",
        """
        mr mrs ms dr prof rev gen sen st jr sr vs etc al cf ca approx fig figs eq eqs sec no nos vol
        pp ed eds inc ltd co corp dept est min max resp incl
        jan feb mar apr jun jul aug sep sept oct nov dec
        bzw usw ggf evtl vgl abb tab nr bd hrsg geb str zzgl inkl mind sog
        mme mlle av art env sra srta ud uds num tel sig dott ecc ing
        dhr mevr bijv enz blz dvs osv kl tzn tzw itd itp
        """,
    )
)
_LONGEST_WORD = 12
"""Characters before a full stop that are looked at; no abbreviation is so long."""


def line_ends(text: str, start: int, end: int) -> Iterator[int]:
    return (found.end() for found in _LINE_END.finditer(text, start, end))


def paragraph_ends(text: str, start: int, end: int) -> Iterator[int]:
    """Behind blank lines."""
    return (found.end() for found in _PARAGRAPH_END.finditer(text, start, end))


def sentence_ends(text: str, start: int, end: int) -> Iterator[int]:
    """Also between items of a list and other lines that go on in no sentence."""
    for found in _SENTENCE_END.finditer(text, start, end):
        if found["stop"] is None or _ends_sentence(text, found):
            yield found.end()


def _ends_sentence(text: str, found: re.Match[str]) -> bool:
    """Whether there is one behind a stop and white space."""
    if found[0].count("\n") > 1:
        return True
    if text[found.end() : found.end() + 1].islower():
        return False
    is_full_stop = found[0][0] == "." and found[0][1] not in ".!?\u2026"
    return not (is_full_stop and _is_shortened(text, found.start()))


def _is_shortened(text: str, stop: int) -> bool:
    """Whether the full stop belongs to the word before it: Dr., z. B., U.S., 3. Oktober."""
    before = text[max(0, stop - _LONGEST_WORD) : stop]
    if not before or before[-1].isspace():
        return False
    word = before.split()[-1].lstrip("([\"'\u201e\u201c\u00ab")
    if len(word) <= 2 and word.isdecimal():
        return True
    is_short = all(len(part) <= 2 and part.isalpha() for part in word.split("."))
    is_of_letters = is_short and ("." in word or len(word) == 1)
    return is_of_letters or word.casefold() in _ABBREVIATIONS
