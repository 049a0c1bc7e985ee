"""When an episode's calls ran, and what lay between them, as far as its record tells.

It tells when each call asked the engine and how long the answer took, not what an agent did in
between, nor how much of a call was its wait for a place in the engine.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from astuner.logview.view.said import read_message
from astuner.trajectory.episode import Episode
from astuner.trajectory.recorder import Agent, Call


class BetweenKind(StrEnum):
    """What an agent did, or was most likely doing, when it did not wait for the engine."""

    BEGIN = "begin"
    """Before its first call: setting up, or waiting for its turn."""
    TOOLS = "tools"
    """Behind a reply that called tools."""
    OWN = "own"
    """Behind any other reply: its own work, or waiting for its turn."""
    END = "end"
    """Behind the last call of all: finishing, tools of its reply too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Between:
    """A stretch of an agent's time without a call."""

    kind: BetweenKind
    started_seconds: float
    """From the episode's start, as all here that began."""
    seconds: float
    tools: tuple[str, ...]
    """Names of the tools that the reply before it called."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedCall:
    """A call in time."""

    index: int
    """Among the calls of the episode."""
    started_seconds: float
    seconds: float
    """From asking the engine to its answer, its queue included."""
    num_sampled_tokens: int | None
    """None where they are not known."""
    before: Between | None
    """Since the agent's call before; None where that one still ran."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallLane:
    """The calls of one agent, by when they began."""

    agent_name: str
    target_tag: str
    calls: tuple[TimedCall, ...]

    @property
    def tool_seconds(self) -> float:
        return self._between(BetweenKind.TOOLS)

    @property
    def own_seconds(self) -> float:
        return self._between(BetweenKind.OWN)

    def _between(self, kind: BetweenKind) -> float:
        gaps = (call.before for call in self.calls)
        return sum(gap.seconds for gap in gaps if gap is not None and gap.kind is kind)


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """The time of one episode."""

    lanes: tuple[CallLane, ...]
    """By agent, in the order of their first calls."""
    total_seconds: float
    """With its judging."""
    judging_seconds: float | None
    """Asking the judge; None where the record does not tell, 0 where nobody was asked."""
    end: Between | None
    """From the last answer until it was judged; None in an episode without calls."""
    engine_seconds: float
    """In which at least one call waited for the engine."""

    @property
    def tool_seconds(self) -> float:
        """Behind replies that called tools, summed over agents."""
        return sum(lane.tool_seconds for lane in self.lanes)

    @property
    def own_seconds(self) -> float:
        """Behind other replies, summed over agents."""
        return sum(lane.own_seconds for lane in self.lanes)

    @property
    def begin_seconds(self) -> float | None:
        """Until the first call of all; None where there is none."""
        starts = [call.started_seconds for lane in self.lanes for call in lane.calls]
        return min(starts, default=None)


def read_timeline(episode: Episode) -> Timeline:
    by_agent: dict[Agent, list[int]] = {}
    for index, call in enumerate(episode.calls):
        by_agent.setdefault(call.agent, []).append(index)
    working = max(0.0, episode.seconds - episode.judging_seconds)
    return Timeline(
        lanes=tuple(
            CallLane(
                agent_name=agent[0],
                target_tag=agent[1],
                calls=_timed(episode.calls, sorted(indices, key=_start(episode.calls))),
            )
            for agent, indices in by_agent.items()
        ),
        total_seconds=episode.seconds,
        judging_seconds=_judging(episode),
        end=_end(episode.calls, working),
        engine_seconds=_covered(episode.calls),
    )


def _start(calls: Sequence[Call]) -> Callable[[int], tuple[float, int]]:
    """A key to sort indices of calls by."""
    return lambda index: (calls[index].started_seconds, index)


def _timed(calls: Sequence[Call], indices: Sequence[int]) -> tuple[TimedCall, ...]:
    timed, last = [], None
    for index in indices:
        call = calls[index]
        timed.append(
            TimedCall(
                index=index,
                started_seconds=call.started_seconds,
                seconds=call.seconds,
                num_sampled_tokens=len(call.completion.ids) if call.prompt_ids else None,
                before=_before(last, call),
            )
        )
        if last is None or _ended(call) >= _ended(last):
            last = call
    return tuple(timed)


def _before(last: Call | None, call: Call) -> Between | None:
    if last is None:
        return Between(
            kind=BetweenKind.BEGIN, started_seconds=0.0, seconds=call.started_seconds, tools=()
        )
    if call.started_seconds < _ended(last):
        return None
    return _behind(last, call.started_seconds)


def _behind(last: Call, until: float, kind: BetweenKind | None = None) -> Between:
    tools = tuple(tool.name for tool in read_message(last.reply, index=0).tool_calls)
    return Between(
        kind=kind or (BetweenKind.TOOLS if tools else BetweenKind.OWN),
        started_seconds=_ended(last),
        seconds=until - _ended(last),
        tools=tools,
    )


def _end(calls: Sequence[Call], working: float) -> Between | None:
    if not calls:
        return None
    last = max(calls, key=_ended)
    return _behind(last, max(working, _ended(last)), BetweenKind.END)


def _ended(call: Call) -> float:
    return call.started_seconds + call.seconds


def _covered(calls: Sequence[Call]) -> float:
    """The length of the union of their times."""
    total, reached = 0.0, 0.0
    for call in sorted(calls, key=lambda call: call.started_seconds):
        begin = max(reached, call.started_seconds)
        total += max(0.0, _ended(call) - begin)
        reached = max(reached, _ended(call))
    return total


def _judging(episode: Episode) -> float | None:
    if episode.judging_seconds > 0:
        return episode.judging_seconds
    is_asked = episode.verdict is not None and episode.verdict.source == "judge"
    return None if is_asked or episode.failure is not None else 0.0
