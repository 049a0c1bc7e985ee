"""Times of day: `3:30 PM` is 15:30. Only where one side says AM or PM; else `3:30` is a ratio."""

import re

_TIME = re.compile(
    r"(?P<hour>\d{1,2})(?:[:.](?P<minute>[0-5]\d))?\s?(?P<half>[ap])\.?\s?m\b\.?|(?P<plain>\d{1,2}:[0-5]\d)",
    re.ASCII | re.IGNORECASE,
)
_NOON = 12


def same_time(answer: str, reference: str) -> bool | None:
    """Whether both are the same time; None where not both are times or neither names its half.

    A clock of twelve hours without AM or PM (`3:30`) may be either half of the day.
    """
    matches = _TIME.fullmatch(answer), _TIME.fullmatch(reference)
    if not (matches[0] and matches[1] and (matches[0]["half"] or matches[1]["half"])):
        return None
    return bool(_minutes(matches[0]) & _minutes(matches[1]))


def _minutes(match: re.Match[str]) -> set[int]:
    """Since midnight."""
    hour, minute = (
        match["plain"].split(":") if match["plain"] else (match["hour"], match["minute"] or 0)
    )
    hour, minute = int(hour), int(minute)
    half = (match["half"] or "").lower()
    if not half and not 1 <= hour <= _NOON:
        return {60 * hour + minute}
    starts = {"a": [0], "p": [_NOON]}.get(half, [0, _NOON])
    return {60 * (hour % _NOON + start) + minute for start in starts}
