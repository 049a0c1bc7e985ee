r"""The number that stands last in a text, with the formula that it is part of."""

import re

from astuner.task_judge.math.characters import ascii_math

_DECIMAL = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+(?:\.\.\.)?)?|\.\d+"
_FRACTION = r"(?:\d+\s?)?\\[dt]?frac\{-?\d+\}\{-?\d+\}"
_NUMBER = re.compile(
    rf"(?<![\w.)}}\]])-?[$€£¥]?(?:{_FRACTION}|\d+(?:\s?:\s?\d+)+|(?:{_DECIMAL})(?:e[+-]?\d{{1,3}}\b|/\d+)?)"
    r"(?:\s?\\?%|\s?(?:percent|hundred|thousand|million|billion|[ap]\.?m)\b)?",
    re.ASCII | re.IGNORECASE,
)
_MAX_CANDIDATES = 40
"""Numbers that are looked at, from the last one back, for one that is no mere label."""
_LOOK_BACK = 40
"""Characters before a number that say what it is."""

_LABEL_BEFORE = re.compile(
    r"(?:\b(?:step|part|case|question|problem|figure|equation|eq\.|line|section)\s?|[A-Za-z}]\^\{?)$",
    re.IGNORECASE,
)
_NOT_BEFORE = re.compile(
    r"(?:\b(?:not|never|nicht|pas|no es|isn't|wasn't|aren't|cannot|(?:ca|could|wo|would)n't)\s"
    r"|(?:不是|不等于|не)\s?)"
    r"(?:equal to |equals? |be )?$",
    re.IGNORECASE,
)
_LINK = re.compile(
    r"[\s$*]*(?:,?\s?\b(?:and|or|to|oder|ou|или)\b|或者?|,)[\s$*]*(?:[A-Za-z]\s?=\s?)?",
    re.IGNORECASE,
)
"""Between the parts of one answer, as in `1, 2 or 3`."""
_VARIABLE_BEFORE = re.compile(r"(?:\b[A-Za-z]\s?=\s?)?$")
_PAIR = re.compile(r"[(\[][^()\[\]\n]{1,40},[^()\[\]\n]{1,40}[)\]]$")
_IN_FORMULA_BEFORE = re.compile(r"(?:[\^_{*+=]|\\[a-z]+|[^\s{]/)$", re.IGNORECASE)
_IN_FORMULA_AFTER = re.compile(r"\s?\^|\s?\\(?!text|mathrm|[%,;:!)\] \\])|_\w")
_CHUNK_BEFORE = re.compile(r"[!-~]*$")
_CHUNK_AFTER = re.compile(r"[!-~]*(?: ?\\[a-z]+[!-~]*)*", re.IGNORECASE)


def last_number(text: str) -> str | None:
    r"""The last number of a text, with its sign, fraction and per cent sign; `2\sqrt{3}` where
    it belongs to that, and `5 or 6` where it is one of several. None where a text has no number,
    asks (`7?`) or denies (`not 7`).

    Numbers that only count something up, as in `Step 2:` and `m^2`, are no answers.
    """
    text = ascii_math(text).replace("{,}", ",")
    matches = list(_NUMBER.finditer(text))[-_MAX_CANDIDATES:]
    for index in range(len(matches) - 1, -1, -1):
        match = matches[index]
        before = text[max(0, match.start() - _LOOK_BACK) : match.start()]
        if not _LABEL_BEFORE.search(before):
            return _with_its_surroundings(text, matches[: index + 1], before)
    return None


def _with_its_surroundings(text: str, matches: list[re.Match[str]], before: str) -> str | None:
    match = matches[-1]
    if _NOT_BEFORE.search(before) or text[match.end() :].lstrip("*_$ ").startswith("?"):
        return None
    start = _start_of_alternatives(text, matches)
    if start is not None:
        return _variable_before(text, start) + text[start : match.end()]
    if pair := _PAIR.search(text, max(0, match.end() - _LOOK_BACK), match.end() + 1):
        return pair[0]
    is_in_formula = _IN_FORMULA_BEFORE.search(before) or _IN_FORMULA_AFTER.match(text, match.end())
    if not is_in_formula:
        return match[0]
    return _chunk(text, match)


def _variable_before(text: str, end: int) -> str:
    match = _VARIABLE_BEFORE.search(text, max(0, end - _LOOK_BACK), end)
    return match[0] if match else ""


def _start_of_alternatives(text: str, matches: list[re.Match[str]]) -> int | None:
    """Where `1, 2 or 3` begins; None where the last number is alone, as in `out of 10, 7`."""
    start = None
    for earlier, later in zip(matches[-2::-1], matches[:0:-1], strict=False):
        link = _LINK.fullmatch(text, earlier.end(), later.start())
        if link is None or (start is None and link[0].strip("$* ") == ","):
            break
        start = earlier.start()
    return start


def _chunk(text: str, match: re.Match[str]) -> str:
    """What stands around a number without a space."""
    line_start = text.rfind("\n", 0, match.start()) + 1
    before = _CHUNK_BEFORE.search(text[max(line_start, match.start() - _LOOK_BACK) : match.start()])
    after = _CHUNK_AFTER.match(text, match.end())
    return (before[0] if before else "") + match[0] + (after[0] if after else "")
