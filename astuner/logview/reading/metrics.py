"""The metrics of a run, whatever their names and values are."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from astuner.logview.reading.growing import Content, GrowingLines
from astuner.types import finite_number

LARGEST_COUNT = 2**53
"""Browsers count whole numbers up to here."""
_NO_METRICS = ("step", "time")


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """One line for each step, as of one moment."""

    rows: list[dict[str, Any]]
    """What each step wrote, by step; of what several of its lines have, the last."""
    problems: list[str]
    """Lines that could not be read, in words."""

    @cached_property
    def names(self) -> tuple[str, ...]:
        """All names that a curve could be drawn of, in the order in which they were first met.

        A name is none where no line has a number, a truth value or null for it.
        """
        found = (name for row in self.rows for name, value in row.items() if _is_drawn(value))
        return tuple(name for name in dict.fromkeys(found) if name not in _NO_METRICS)

    @cached_property
    def steps(self) -> list[int]:
        return [row["step"] for row in self.rows]

    @cached_property
    def _series(self) -> dict[str, list[tuple[int, float | None]]]:
        """Those that were asked for: a page asks for most of them several times."""
        return {}

    def series(self, name: str) -> list[tuple[int, float | None]]:
        """Each step that tells of it, with its value; None for what is no finite number."""
        if name not in self._series:
            self._series[name] = [
                (row["step"], finite_number(row[name])) for row in self.rows if name in row
            ]
        return self._series[name]


class MetricsReader:
    """Follows `metrics.jsonl` of one run, or another file of such lines."""

    def __init__(self, root: Path, name: str = "metrics.jsonl") -> None:
        self._file, self._name = GrowingLines(root, name), name
        self._known = (-1, Metrics(rows=[], problems=[]))
        """With the version of what they were made of."""

    def read(self) -> Metrics:
        """The metrics as of now; the same object while nothing was written."""
        content = self._file.read()
        version, metrics = self._known
        if content.version != version:
            metrics = _metrics_of(content, self._name)
            self._known = (content.version, metrics)
        return metrics


def _metrics_of(content: Content, name: str) -> Metrics:
    rows: dict[int, dict[str, Any]] = {}
    for row in content.objects:
        if (step := count_in(row.get("step"))) is not None:
            # A validation that ended behind its step has a line of its own.
            rows[step] = rows.get(step, {}) | row
    num_stray = sum(count_in(row.get("step")) is None for row in content.objects)
    stray = [f"{name}: {num_stray} lines that name no step were passed over"]
    return Metrics(
        rows=[rows[step] for step in sorted(rows)],
        problems=[*content.problems, *(stray if num_stray else [])],
    )


def count_in(value: Any) -> int | None:
    """The value as a count; None for all that is none."""
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    return value if is_whole and 0 <= value <= LARGEST_COUNT else None


def _is_drawn(value: Any) -> bool:
    return value is None or isinstance(value, int | float)
