"""A time line as bars: where each stands and what it says. Owns no colours and no HTML."""

from dataclasses import dataclass
from typing import Literal

from astuner.logview.view.timeline import Between, BetweenKind, CallLane, Timeline
from astuner.logview.view.words import count, duration

WIDTH = 1000
"""What the whole episode takes; bars are in these units."""
_THINNEST = 1.5
_WORTH_SAYING = 0.01
"""As a share of the episode."""

Doing = Literal["generating", "tools", "own", "judging"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    doing: Doing
    x: float
    width: float
    call: int | None
    """None for the judge."""
    says: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnLane:
    name: str
    bars: tuple[Bar, ...]


def drawn_lanes(timeline: Timeline) -> tuple[DrawnLane, ...]:
    """A lane for each agent, and one for the judge where it took time."""
    scale = WIDTH / timeline.total_seconds if timeline.total_seconds > 0 else 0.0
    lanes = [DrawnLane(name=lane.agent_name, bars=_bars(lane, scale)) for lane in timeline.lanes]
    judging = timeline.judging_seconds or 0.0
    if judging * scale >= _THINNEST:
        bar = _bar("judging", timeline.total_seconds - judging, judging, scale, None, "judge")
        lanes.append(DrawnLane(name="judge", bars=(bar,)))
    return tuple(lanes)


def time_sentence(timeline: Timeline) -> str:
    """As in "before the first call 0.01 s · generating 4 s · tools 0.8 s · judge 0.2 s".

    What came behind the last call is left out where it is nothing to speak of.
    """
    end = timeline.end.seconds if timeline.end is not None else 0.0
    known = (
        ("before the first call", timeline.begin_seconds),
        ("generating", timeline.engine_seconds),
        ("tools", timeline.tool_seconds or None),
        ("agents' own", timeline.own_seconds or None),
        ("after the last call", end if end >= _WORTH_SAYING * timeline.total_seconds else None),
        ("judge", timeline.judging_seconds),
    )
    return " · ".join(f"{name} {duration(value)}" for name, value in known if value is not None)


def _bars(lane: CallLane, scale: float) -> tuple[Bar, ...]:
    bars = []
    for call in lane.calls:
        if call.before is not None and call.before.kind is not BetweenKind.BEGIN:
            bars.append(_between(call.before, call.index, scale))
        sampled = call.num_sampled_tokens
        says = f"call {call.index + 1}"
        if sampled is not None:
            says += f" · {count(sampled, 'token')}"
        start, seconds = call.started_seconds, call.seconds
        bars.append(_bar("generating", start, seconds, scale, call.index, says))
    return tuple(bars)


def _between(between: Between, call: int, scale: float) -> Bar:
    is_tools = between.kind is BetweenKind.TOOLS
    says = ", ".join(between.tools) if is_tools else "between calls"
    doing: Doing = "tools" if is_tools else "own"
    return _bar(doing, between.started_seconds, between.seconds, scale, call, says)


def _bar(
    doing: Doing, start: float, seconds: float, scale: float, call: int | None, says: str
) -> Bar:
    width = max(_THINNEST, seconds * scale)
    return Bar(
        doing=doing,
        x=round(min(start * scale, WIDTH - width), 2),
        width=round(width, 2),
        call=call,
        says=f"{says} · {duration(seconds)}",
    )
