"""Dates in figures: `2024-01-02` is neither 2021 nor a quotient."""

import re

_DATE = re.compile(r"\d{4}([-/.])\d{1,2}\1\d{1,2}|\d{1,2}([-/.])\d{1,2}\2\d{4}", re.ASCII)


def same_date(answer: str, reference: str) -> bool | None:
    """Whether both are the same figures, leading zeros aside; None where neither is a date.

    Which of two figures is the month is not known, so `1/2/2024` is no `2024-01-02`.
    """
    matches = _DATE.fullmatch(answer), _DATE.fullmatch(reference)
    if not (matches[0] or matches[1]):
        return None
    return _figures(answer) == _figures(reference) if matches[0] and matches[1] else False


def _figures(text: str) -> list[int]:
    return [int(figure) for figure in re.split("[-/.]", text)]
