r"""Numerals that are more than digits and a point: repeating decimals and numbers in a base.

repeating("0.1(6)")   repeating("0.333...")   in_base(r"FF_{16}")   in_base("110 base 2")
"""

import re
from fractions import Fraction

_REPEATING = re.compile(
    r"(?P<plain>\d*\.\d*)(?:\\(?:overline|bar)\s?(?:\{(?P<over>\d+)\}|(?P<single>\d))"
    r"|\((?P<brackets>\d+)\)"
    r"|\\dot\s?\{?(?P<first>\d)\}?(?:(?P<middle>\d*)\\dot\s?\{?(?P<last>\d)\}?)?)",
    re.ASCII,
)
_GOES_ON = re.compile(
    r"(?P<plain>\d*\.\d*?)(?P<block>\d{1,12}?)(?P<more>(?P=block)+)\.\.\.", re.ASCII
)
_MIN_REPEATED_DIGITS = 3
"""`0.33...` may be a rounded number."""

_IN_BASE = re.compile(
    r"\(?(?P<digits>[A-F]*[0-9][0-9A-F]*|[A-F]{2,})\)?"
    r"(?:\s?_\s?(?:\{\s?(?P<braced>[^{}]{1,20})\}|(?P<bare>\d{1,2})(?!\d))"
    r"|\s?\(?(?:in )?base[ -](?P<worded>\w+)\)?)",
    re.ASCII,
)
_BASES = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9}
_BASES |= {"ten": 10, "twelve": 12, "sixteen": 16}
_LARGEST_BASE = 16
_HEXADECIMAL = 16


def repeating(text: str) -> tuple[Fraction, int] | None:
    """The value of the repeating decimal that the text begins with, and where that ends."""
    match = _REPEATING.match(text)
    if match:
        block = match["over"] or match["single"] or match["brackets"] or ""
        block = block or match["first"] + (match["middle"] or "") + (match["last"] or "")
        return _value(match["plain"], block), match.end()
    match = _GOES_ON.match(text)
    if match and len(match["block"] + match["more"]) >= _MIN_REPEATED_DIGITS:
        return _value(match["plain"], match["block"]), match.end()
    return None


def _value(plain: str, block: str) -> Fraction:
    whole, _, decimals = plain.partition(".")
    shift = 10 ** len(decimals)
    return Fraction(int(whole + decimals or "0"), shift) + Fraction(
        int(block), shift * (10 ** len(block) - 1)
    )


def has_base(text: str) -> bool:
    """Whether the text is written as a number in a base, also one with digits beyond that base."""
    return _IN_BASE.fullmatch(text) is not None


def in_base(text: str) -> int | None:
    """The value of a whole text such as `110_2`; None where it is no such number."""
    match = _IN_BASE.fullmatch(text)
    return _base_value(match) if match else None


def with_decimal_numerals(text: str) -> str:
    """A formula whose numbers in a base are written in base ten; wrong ones stay as they are."""
    return _IN_FORMULA.sub(lambda match: _decimal_text(match), text)


_IN_FORMULA = re.compile(rf"(?<![\w\\.}}]){_IN_BASE.pattern}", re.ASCII)


def _decimal_text(match: re.Match[str]) -> str:
    value = _base_value(match)
    return match[0] if value is None else str(value)


def _base_value(match: re.Match[str]) -> int | None:
    named = (match["braced"] or match["bare"] or match["worded"] or "").lower()
    named = named.removeprefix("base").strip()
    base = _BASES.get(named) or (int(named) if named.isdecimal() and len(named) < 3 else 0)
    if not 2 <= base <= _LARGEST_BASE or (match["digits"].isalpha() and base != _HEXADECIMAL):
        return None
    try:
        return int(match["digits"], base)
    except ValueError:
        return None
