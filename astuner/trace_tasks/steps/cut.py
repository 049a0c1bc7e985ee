"""Which of a user's messages become questions."""

from collections.abc import Sequence
from dataclasses import replace

from astuner.config.sections.trace_filters import CutParams
from astuner.trace_tasks.candidate import Candidate
from astuner.trace_tasks.step import TurnDropped
from astuner.trace_tasks.turns import feedback_on_answer, user_turns


def cut(candidate: Candidate, *, params: CutParams) -> Sequence[Candidate] | TurnDropped:
    """A candidate for each turn that is wanted, in their order."""
    turns = [replace(candidate, turn=turn) for turn in user_turns(candidate.trace)]
    if not turns:
        return TurnDropped("no user says anything")
    if params.turns == "first":
        return turns[:1]
    if params.turns == "last":
        return turns[-1:]
    told = [turn for turn in turns if feedback_on_answer(turn)]
    if params.turns == "feedback":
        return told[-params.max_per_trace :] or TurnDropped("no turn has feedback")
    return turns if len(turns) <= params.max_per_trace else _first_told(turns, told, params)


def _first_told(
    turns: Sequence[Candidate], told: Sequence[Candidate], params: CutParams
) -> list[Candidate]:
    most = params.max_per_trace
    kept = {turn.turn for turn in told[-most:]}
    others = [turn.turn for turn in turns if turn.turn not in kept]
    kept |= {*others[len(others) - (most - len(kept)) :]}
    return [turn for turn in turns if turn.turn in kept]
