r"""Plain numbers as exact fractions, in the ways that models and data sets write them.

    parse_number("1,234")   parse_number("12.50 dollars")   parse_number(r"x = \frac{3}{4}")

Takes what `plain.plain_math` gives. What would need algebra is not a number here. Units are
dropped, not compared: 18 cm equals 18 m.
"""

import re
from dataclasses import dataclass
from fractions import Fraction

from astuner.task_judge.math.numerals import in_base, repeating

MAX_NUMBER_CHARS = 300
"""Longer texts are not numbers; keeps the arithmetic and the patterns below cheap."""

_UNSIGNED = (
    r"(?:(?:\d{1,3}(?:[ ,_']\d{3})+|\d{1,2}(?:,\d{2})+,\d{3}|\d+)(?![\d_])(?:\.\d*)?|\.\d+)"
    r"(?!\.\d)"
)
_EUROPEAN = re.compile(r"(?:\d{1,3}(?:\.\d{3}){2,}(?:,\d+)?|\d{1,3}\.\d{3},\d+)(?!\d)", re.ASCII)
_POWER_OF_TEN = r"10\s?\^\s?"
_SCIENTIFIC = re.compile(
    rf"(?:(?P<mantissa>{_UNSIGNED})(?:e|\s?(?:\\times|\\cdot|\*|x)\s?{_POWER_OF_TEN})"
    rf"|{_POWER_OF_TEN})(?P<exponent>[+-]?\d{{1,3}}(?!\d)|\{{[+-]?\d{{1,3}}\}})",
    re.ASCII | re.IGNORECASE,
)
_BRACED = rf"\{{\s?-?{_UNSIGNED}\s?\}}|\d"
_FRAC = re.compile(
    rf"(?:(?P<whole>\d+)\s?)?\\frac\s?(?P<top>{_BRACED})\s?(?P<bottom>{_BRACED})", re.ASCII
)
_RATIO = re.compile(
    rf"(?:(?P<whole>\d+)\s)?(?P<top>{_UNSIGNED})\s?[/:]\s?(?P<bottom>{_UNSIGNED})", re.ASCII
)
_PLAIN = re.compile(_UNSIGNED, re.ASCII)

_LABEL = re.compile(r"(?:[A-Za-z\\][\w\\{}()' ]{0,40}?\s?(?:=|(?<!\d):|:(?!\d))\s?){1,3}", re.ASCII)
_ARITHMETIC = re.compile(r"(?:[\d\s.,+\-*/()^{}=]|\\times|\\cdot|\\div|\\frac)+=\s?", re.ASCII)
_ROUGHLY = re.compile(r"(?:\\approx|approximately|about|roughly|exactly)\s?", re.IGNORECASE)
_CURRENCY = re.compile(r"(?:USD|EUR|GBP|RMB|CNY|INR|Rs\.?)\s?(?=[\d.-])")
_SIGN = re.compile(r"(?:(-|negative |minus )|\+)\s?", re.IGNORECASE)
_DEGREES = re.compile(r"°(?:\s?[CFK](?![A-Za-z]))?")
_PERCENT = re.compile(r"\s?(?:%|per\s?cent\b|percentage\b|pct\b)", re.IGNORECASE)


def _words(text: str) -> list[str]:
    return text.split()


_ONES = {
    word: value
    for value, word in enumerate(
        _words(
            "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
            "fifteen sixteen seventeen eighteen nineteen"
        )
    )
}
_TENS = {
    word: 10 * value
    for value, word in enumerate(
        _words("twenty thirty forty fifty sixty seventy eighty ninety"), start=2
    )
}
_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_SCALE = re.compile(r"\s?(hundred|thousand|million|billion|trillion)\b", re.IGNORECASE)

_LETTER_UNITS = frozenset(_words("m g h s l L J N W V A K C F d"))
_SHORT_UNITS = frozenset(
    _words(
        "cm mm km kg mg ml hr ft in lb oz mi yd gb mb kb hz am pm kw mw cc ms dl cl ha pt qt sq of "
        "usd eur gbp rmb cny inr hrs min sec lbs mph kph kmh"
    )
)
_NOT_UNITS = frozenset(
    _words(
        "and not plus minus times over but mod sin cos tan cot csc log exp sqrt frac theta alpha "
        "beta gamma delta lambda epsilon sigma omega infinity negative than squared cubed "
        "factorial binary octal hexadecimal base"
    )
) | {*_ONES, *_TENS, *_SCALES, "hundred"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Number:
    """A value, and whether it was written as a percentage (50% has the value 50)."""

    value: Fraction
    is_percent: bool

    def equals(self, other: "Number") -> bool:
        """Exact equality. Where one side alone is a percentage, 50% equals both 50 and 0.5."""
        if self.value == other.value:
            return True
        if self.is_percent == other.is_percent:
            return False
        percent, plain = (self, other) if self.is_percent else (other, self)
        return percent.value == 100 * plain.value


@dataclass(frozen=True, slots=True)
class _Reading:
    value: Fraction
    rest: str


def parse_number(text: str) -> Number | None:
    """The number that the whole text states, a label before and a unit behind it allowed."""
    if len(text) > MAX_NUMBER_CHARS:
        return None
    text = _without_brackets(_without_label(text))
    based = in_base(text)
    if based is not None:
        return Number(value=Fraction(based), is_percent=False)
    sign = _SIGN.match(text)
    if sign:
        text = text[sign.end() :]
    reading = _read_digits(text) or _read_words(text)
    if reading is None:
        return None
    number = _with_suffix(reading)
    if number is None or not (sign and sign[1]):
        return number
    return Number(value=-number.value, is_percent=number.is_percent)


def _without_label(text: str) -> str:
    text = text.lstrip("= ")
    for pattern in (_LABEL, _ARITHMETIC, _ROUGHLY, _CURRENCY):
        match = pattern.match(text)
        if match:
            text = text[match.end() :]
    return text


def _without_brackets(text: str) -> str:
    is_wrapped = text[:1] + text[-1:] in ("()", "{}")
    inner = text[1:-1].strip()
    return inner if is_wrapped and not re.search(r"[(){},]", inner) else text


def _read_digits(text: str) -> _Reading | None:
    if match := _EUROPEAN.match(text):
        whole, _, decimals = match[0].partition(",")
        return _Reading(Fraction(f"{whole.replace('.', '')}.{decimals or 0}"), text[match.end() :])
    if recurring := repeating(text):
        return _Reading(recurring[0], text[recurring[1] :])
    if match := _SCIENTIFIC.match(text):
        exponent = int(match["exponent"].strip("{}"))
        value = _decimal(match["mantissa"] or "1") * Fraction(10) ** exponent
        return _Reading(value, text[match.end() :])
    if match := _FRAC.match(text) or _RATIO.match(text):
        return _read_fraction(match)
    if match := _PLAIN.match(text):
        return _Reading(_decimal(match[0]), text[match.end() :])
    return None


def _read_fraction(match: re.Match[str]) -> _Reading | None:
    top, bottom = _decimal(match["top"]), _decimal(match["bottom"])
    if bottom == 0:
        return None
    whole = int(match["whole"] or 0)
    return _Reading(whole + top / bottom, match.string[match.end() :])


def _decimal(text: str) -> Fraction:
    return Fraction(re.sub(r"[{} ,_']", "", text))


def _read_words(text: str) -> _Reading | None:
    """English number words: `eight`, `twenty-one`, `one hundred and five`, `two thousand`."""
    total = group = end = 0
    for match in re.finditer("[A-Za-z]+", text):
        word = match[0].lower()
        if text[end : match.start()].strip(" -"):
            break
        if word == "and" and group % 100 == 0 and (group or total):
            end = match.end()
            continue
        step = _next_group(group, word)
        if step is not None:
            group = step
        elif word in _SCALES and group:
            total, group = total + group * _SCALES[word], 0
        else:
            break
        end = match.end()
    return _Reading(Fraction(total + group), text[end:]) if end else None


def _next_group(group: int, word: str) -> int | None:
    """The number below 1000 after one more word; None where English does not go on like that."""
    if word in _TENS and group % 100 == 0:
        return group + _TENS[word]
    if word in _ONES and (group % 100 == 0 or (group % 100 >= 20 and group % 10 == 0)):
        return group + _ONES[word]
    return 100 * group if word == "hundred" and 1 <= group <= 9 else None


def _with_suffix(reading: _Reading) -> Number | None:
    value = reading.value
    rest = _DEGREES.sub("", reading.rest)
    percent = _PERCENT.match(rest)
    if percent:
        rest = rest[percent.end() :]
    elif scale := _SCALE.match(rest):
        value *= _SCALES.get(scale[1].lower(), 100)
        rest = rest[scale.end() :]
    if rest.strip() and not _is_unit(rest):
        return None
    return Number(value=value, is_percent=percent is not None)


def _is_unit(rest: str) -> bool:
    """Whether the text behind a number is words only, none of which could be mathematics."""
    powerless = re.sub(r"\s?\^\s?(?:-?\d|\{-?\d\})", "", rest)
    words = [word.strip(".") for word in re.split(r"[\s/()]+", powerless) if word]
    if not 1 <= len(words) <= 6 or not all(_is_unit_word(word) for word in words):
        return False
    # `18x` and `18ab` are products; `18cm` and `18dollars` are not.
    is_adjacent = rest[0].isascii() and rest[0].isalpha()
    return not is_adjacent or len(words[0]) >= 4 or words[0].lower() in _SHORT_UNITS


def _is_unit_word(word: str) -> bool:
    if word in _LETTER_UNITS or word.lower() in _SHORT_UNITS:
        return True
    if not word.isalpha() or word.lower() in _NOT_UNITS:
        return False
    return len(word) >= 3 or "\u3040" <= word[0] <= "\u9fff"


def parse_ratio(text: str) -> tuple[Fraction, ...] | None:
    """`4:6:2` and `4 to 6 to 2`, each in terms of its first part; None for anything else."""
    parts = re.split(r"\s?:\s?|\sto\s", text)
    if len(text) > MAX_NUMBER_CHARS or len(parts) < 2 or not all(map(_PLAIN.fullmatch, parts)):
        return None
    values = [_decimal(part) for part in parts]
    return tuple(value / values[0] for value in values) if values[0] else None
