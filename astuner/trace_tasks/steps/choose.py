"""Which traces, or turns behind the cut, are looked at at all."""

from collections import Counter
from collections.abc import Sequence

from astuner.config.sections.trace_filters import ChooseParams
from astuner.trace_tasks.candidate import Candidate
from astuner.trace_tasks.step import TurnDropped
from astuner.trace_tasks.turns import feedback_on, is_failed, mean_score


class TraceChoice:
    """Keeps what the params say; all conditions have to hold."""

    def __init__(self, params: ChooseParams) -> None:
        self._params = params
        self._of_user: Counter[str] = Counter()

    def __call__(self, candidate: Candidate) -> Sequence[Candidate] | TurnDropped:
        reason = (
            self._by_error(candidate)
            or self._by_feedback(candidate)
            or self._by_time(candidate)
            or self._by_name(candidate)
            or self._by_user(candidate)
        )
        return TurnDropped(reason) if reason else [candidate]

    def _by_error(self, candidate: Candidate) -> str | None:
        wanted = self._params.errors
        if wanted == "in":
            return None
        failed = is_failed(candidate)
        if wanted == "out" and failed:
            return "it failed"
        return "it did not fail" if wanted == "only" and not failed else None

    def _by_feedback(self, candidate: Candidate) -> str | None:
        above, below = self._params.feedback_above, self._params.feedback_below
        if above is None and below is None:
            return None
        name = self._params.feedback_name
        score = mean_score(one for one in feedback_on(candidate) if name in (None, one.name))
        if score is None:
            return f"no score of {name}" if name else "no score in its feedback"
        if above is not None and score <= above:
            return f"feedback not above {above:g}"
        return f"feedback not below {below:g}" if below is not None and score >= below else None

    def _by_time(self, candidate: Candidate) -> str | None:
        begin, end = self._params.begin, self._params.end
        if begin is None and end is None:
            return None
        trace, turn = candidate.trace, candidate.turn
        started = (None if turn is None else trace.steps[turn].started) or trace.started
        if started is None:
            return "no time is known"
        if begin is not None and started < begin:
            return "earlier than from"
        return "not before to" if end is not None and started >= end else None

    def _by_name(self, candidate: Candidate) -> str | None:
        if self._params.agents and candidate.trace.agent not in self._params.agents:
            return "another agent"
        if self._params.tags and not {*self._params.tags} & {*candidate.trace.tags}:
            return "none of the tags"
        return None

    def _by_user(self, candidate: Candidate) -> str | None:
        """Of unknown users, each session counts as one."""
        most = self._params.max_per_user
        if most is None:
            return None
        trace = candidate.trace
        who = trace.user or trace.session or trace.trace_id
        if self._of_user[who] >= most:
            return f"more than {most} of one user"
        self._of_user[who] += 1
        return None
