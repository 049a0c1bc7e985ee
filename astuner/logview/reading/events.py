"""What a run told of itself: that it started, what it planned, what was found, how it ended."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from astuner.logview.reading.growing import GrowingLines
from astuner.logview.reading.metrics import count_in


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundThing:
    """Something that a detector found."""

    step: int | None
    detector: str
    message: str
    stops: bool
    """Whether it ended the run."""


class EventsReader:
    """Follows `events.jsonl` of one run; releases without it have none."""

    def __init__(self, root: Path) -> None:
        self._file = GrowingLines(root, "events.jsonl")

    def read(self) -> list[dict[str, Any]]:
        """All events, in the order in which they were written."""
        return self._file.read().objects


def findings_of(events: Iterable[Mapping[str, Any]]) -> list[FoundThing]:
    """What detectors found; fields that have another form than they should are not known."""
    return [
        FoundThing(
            step=count_in(event.get("step")),
            detector=str(event.get("detector", "")),
            message=str(event.get("message", "")),
            stops=event.get("stops") is True,
        )
        for event in events
        if event.get("event") == "finding"
    ]


def newest(events: Iterable[Mapping[str, Any]], kind: str) -> Mapping[str, Any]:
    """The last event of that kind; empty where there is none."""
    found: Mapping[str, Any] = {}
    for event in events:
        found = event if event.get("event") == kind else found
    return found


def seconds_of(time: object) -> float | None:
    """Seconds since 1970 of a time as machines write it; None for anything else."""
    if not isinstance(time, str):
        return None
    try:
        return datetime.fromisoformat(time).timestamp()
    except (ValueError, OverflowError):
        return None
