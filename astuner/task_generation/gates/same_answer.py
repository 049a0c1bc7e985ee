"""Whether two short answers say the same, as far as that needs no model."""

import re
import unicodedata

from astuner.task_judge.math.equality import exact_equality
from astuner.task_judge.math.number import parse_number
from astuner.task_judge.math.plain import plain_math

MAX_VALUE_CHARS = 300
"""A longer answer is no number, and is compared as text only."""

_ARTICLE = re.compile(r"^(?:an?|the) ")
_EDGES = " .,;:!?'\"`*\u201c\u201d\u2018\u2019«»。"
_YES = ("yes", "ja", "oui", "sí", "sì", "sim", "да", "true", "是", "是的", "对", "はい", "네", "예")
_NO = ("no", "nein", "non", "não", "нет", "false", "否", "不是", "不", "いいえ", "아니요")
_VERDICT = re.compile(rf"(?P<word>{'|'.join((*_YES, *_NO))})\s*(?:[,.;:!。—-]|$)")
"""`No errors` is no verdict, `No, since …` is one."""
_UNIT = re.compile(r"[^\W\d_]+|%|°")
_UNIT_NAMES = {
    "s": "second",
    "sec": "second",
    "ms": "millisecond",
    "min": "minute",
    "h": "hour",
    "hr": "hour",
    "kb": "kilobyte",
    "mb": "megabyte",
    "gb": "gigabyte",
    "kg": "kilogram",
    "km": "kilometer",
    "cm": "centimeter",
    "mm": "millimeter",
}


def same_answer(one: str, other: str) -> bool | None:
    """By their text, yes and no, and numbers as the math judge compares them; None: still open.

    Numbers are equal only with equal units, or where one has none: the judge drops units, and 25 s
    is not 25 min. What differs as text only is open.
    """
    words = _plain(one), _plain(other)
    if not all(words):
        return False
    if words[0] == words[1]:
        return True
    verdict = _same_verdict(*words)
    return _same_value(one, other) if verdict is None else verdict


def _plain(text: str) -> str:
    """In one spelling, without quotes, full stop and article around it; a sign before stays."""
    bare = " ".join(unicodedata.normalize("NFKC", text).casefold().split()).strip(_EDGES)
    return _ARTICLE.sub("", bare, count=1)


def _same_verdict(one: str, other: str) -> bool | None:
    """Of two that begin with yes or no; where both give reasons too, these may still differ."""
    verdicts = _VERDICT.match(one), _VERDICT.match(other)
    if not (verdicts[0] and verdicts[1]):
        return None
    if (verdicts[0]["word"] in _YES) != (verdicts[1]["word"] in _YES):
        return False
    is_alone = [words in (*_YES, *_NO) for words in (one, other)]
    return True if any(is_alone) else None


def _same_value(one: str, other: str) -> bool | None:
    if max(len(one), len(other)) > MAX_VALUE_CHARS:
        return None
    units = _units(one), _units(other)
    if units[0] != units[1] and units[0] and units[1]:
        return None
    if exact_equality(one, other):
        return True
    are_numbers = all(parse_number(plain_math(text)) is not None for text in (one, other))
    return False if are_numbers else None


def _units(text: str) -> list[str]:
    """The words beside the figures, in one spelling."""
    return sorted(_one_spelling(word) for word in _UNIT.findall(text.casefold()))


def _one_spelling(unit: str) -> str:
    singular = unit.removesuffix("s") if len(unit) > 2 else unit
    return _UNIT_NAMES.get(singular, singular)
