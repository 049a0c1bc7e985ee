"""A small curve of shares or rewards over steps, as points of a drawing."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 640.0, 90.0
_MARGIN = 6.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TracePoint:
    """One step of a curve."""

    step: int
    value: float
    x: float
    y: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """What a drawing spans."""

    first_step: int
    last_step: int
    low: float
    high: float

    def place(self, step: int, value: float) -> TracePoint:
        """Of a WIDTH by HEIGHT drawing; y grows downward."""
        across = (step - self.first_step) / max(1, self.last_step - self.first_step)
        up = (value - self.low) / (self.high - self.low)
        return TracePoint(
            step=step,
            value=value,
            x=round(_MARGIN + across * (WIDTH - 2 * _MARGIN), 1),
            y=round(HEIGHT - _MARGIN - up * (HEIGHT - 2 * _MARGIN), 1),
        )


def scale_of(points: Sequence[tuple[int, float | None]]) -> Scale | None:
    """From zero where no value is below it, at least up to one; None for no known value."""
    known = [value for _, value in points if value is not None and math.isfinite(value)]
    if not known:
        return None
    steps = [step for step, _ in points]
    low, high = min(0.0, *known), max(1.0, *known)
    return Scale(first_step=min(steps), last_step=max(steps), low=low, high=high)


def trace(points: Sequence[tuple[int, float | None]], scale: Scale) -> list[TracePoint]:
    """The known ones in the drawing, in order."""
    return [scale.place(step, value) for step, value in points if value is not None]
