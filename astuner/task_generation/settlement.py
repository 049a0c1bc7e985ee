"""Which drafts become tasks: settled one by one in the order of the plan.

So what repeats what, and which task is one too many, does not depend on when answers came. Owns no
waiting and asks nobody.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from astuner.task_generation.draft import SIDES, DraftCandidate, DraftTurn, GateRejection, Side
from astuner.task_generation.drafted import DraftedTurn
from astuner.task_generation.gates.gate import DuplicateFilter
from astuner.task_generation.pass_rate import PassRate

PASS_RATE_GATE = "pass_rate"


@dataclass(frozen=True, slots=True, kw_only=True)
class RejectedTurn:
    """A draft that is no task."""

    drafted: DraftedTurn
    rejection: GateRejection


@dataclass(frozen=True, slots=True, kw_only=True)
class PassRateBounds:
    """Tasks are kept whose pass rate lies between, neither bound included."""

    above: float
    below: float

    def find_rejection(self, rate: PassRate) -> GateRejection | None:
        """Why a task of that rate is left out."""
        if rate.value is not None and self.above < rate.value < self.below:
            return None
        return GateRejection(
            gate=PASS_RATE_GATE,
            reason=f"solved in {rate.num_solved} of {rate.num_judged} attempts; kept is what is "
            f"solved more often than {self.above:g} and less often than {self.below:g}",
        )


class Settlement:
    """What is taken so far. Changed by its owner only, one turn after the other."""

    def __init__(
        self,
        duplicates: DuplicateFilter,
        *,
        wanted: Mapping[Side, int],
        bounds: PassRateBounds | None,
        rates: Mapping[int, PassRate],
    ) -> None:
        """`rates` are those that were measured before, by turn; without `bounds` none are asked
        for."""
        self._duplicates = duplicates
        self._wanted = wanted
        self._bounds = bounds
        self._rates = rates
        self._kept: list[DraftCandidate] = []
        """Of earlier times that the set was whole."""
        self._taken: list[DraftCandidate] = []
        self.rejected: list[RejectedTurn] = []
        self.unmeasured: list[DraftCandidate] = []
        """Whose pass rate is asked for; each of them finds room."""
        self.unjudged: list[DraftCandidate] = []
        """Left out, since no attempt at them has a verdict."""
        self.num_settled = 0
        """Drafts, whatever became of them."""
        self._num_taken: dict[Side, int] = dict.fromkeys(SIDES, 0)
        self._num_unmeasured: dict[Side, int] = dict.fromkeys(SIDES, 0)

    @property
    def taken(self) -> list[DraftCandidate]:
        """The tasks: those of earlier times first, each time in the order of the plan."""
        return [*self._kept, *self.newly_taken]

    @property
    def newly_taken(self) -> list[DraftCandidate]:
        """Those that were not kept, in the order of the plan."""
        return sorted(self._taken, key=lambda candidate: candidate.turn.number)

    @property
    def settled_turns(self) -> list[DraftTurn]:
        left = (*self._kept, *self._taken, *self.unmeasured, *self.unjudged)
        rejected = [rejected.drafted.turn for rejected in self.rejected]
        return [*(candidate.turn for candidate in left), *rejected]

    @property
    def num_taken(self) -> int:
        return sum(self._num_taken.values())

    def num_missing(self, side: Side) -> int:
        """Tasks that are wanted beyond those taken."""
        return max(0, self._wanted[side] - self._num_taken[side])

    def num_unmeasured(self, side: Side) -> int:
        return self._num_unmeasured[side]

    def is_full(self, side: Side) -> bool:
        return self.num_missing(side) == 0

    def has_room(self, side: Side) -> bool:
        """Whether one more is taken, whatever the rates of those that are not measured yet."""
        return self._num_unmeasured[side] < self.num_missing(side)

    def keep(self, candidates: Sequence[DraftCandidate]) -> None:
        """Tasks of a set that was whole: they stay, and what comes behind must differ."""
        for candidate in candidates:
            self._duplicates.add(candidate)
            self._kept.append(self._with_rate(candidate))
            self._num_taken[candidate.turn.side] += 1
        self.num_settled += len(candidates)

    def settle(self, drafted: DraftedTurn) -> None:
        """The next turn of a side that has room."""
        self.num_settled += 1
        candidate = drafted.candidate
        rejection = drafted.rejection
        if candidate is not None:
            rejection = self._duplicates.find(candidate)
        if rejection is not None:
            self.rejected.append(RejectedTurn(drafted=drafted, rejection=rejection))
        elif candidate is not None:
            # Before its rate is known, so that the rates that others wait for change nothing.
            self._duplicates.add(candidate)
            self._take_or_measure(candidate)

    def settle_if_rejected(self, drafted: DraftedTurn) -> bool:
        """A turn that came before the last task of a side that is full; whether it is no task, by
        what is known."""
        rejection, candidate = drafted.rejection, drafted.candidate
        if candidate is not None:
            rejection = self._duplicates.find(candidate)
            rate = self._rates.get(candidate.turn.number)
            if rejection is None and self._bounds is not None and rate is not None:
                rejection = self._bounds.find_rejection(rate)
        if rejection is None:
            return False
        self.num_settled += 1
        self.rejected.append(RejectedTurn(drafted=drafted, rejection=rejection))
        return True

    def settle_rates(self, candidates: Sequence[DraftCandidate], rates: Sequence[PassRate]) -> None:
        """Those that were `unmeasured`, with what was measured."""
        for candidate, rate in zip(candidates, rates, strict=True):
            self.unmeasured.remove(candidate)
            self._num_unmeasured[candidate.turn.side] -= 1
            self._take_if_within(candidate, rate)

    def _take_or_measure(self, candidate: DraftCandidate) -> None:
        side = candidate.turn.side
        rate = self._rates.get(candidate.turn.number)
        if self._bounds is None:
            self._take(candidate)
        elif rate is not None:
            self._take_if_within(candidate, rate)
        else:
            self.unmeasured.append(candidate)
            self._num_unmeasured[side] += 1

    def _take_if_within(self, candidate: DraftCandidate, rate: PassRate) -> None:
        assert self._bounds is not None
        rejection = self._bounds.find_rejection(rate)
        if rate.value is None:
            self.unjudged.append(candidate)
        elif rejection is not None:
            self.rejected.append(RejectedTurn(drafted=_as_drafted(candidate), rejection=rejection))
        else:
            self._take(_noted(candidate, rate))

    def _take(self, candidate: DraftCandidate) -> None:
        self._taken.append(candidate)
        self._num_taken[candidate.turn.side] += 1

    def _with_rate(self, candidate: DraftCandidate) -> DraftCandidate:
        rate = self._rates.get(candidate.turn.number)
        return candidate if self._bounds is None or rate is None else _noted(candidate, rate)


def _noted(candidate: DraftCandidate, rate: PassRate) -> DraftCandidate:
    noted = {"pass_rate": rate.value, "pass_rate_attempts": rate.num_judged}
    return replace(candidate, notes={**candidate.notes, **noted})


def _as_drafted(candidate: DraftCandidate) -> DraftedTurn:
    return DraftedTurn(
        turn=candidate.turn,
        draft=candidate.draft,
        notes=candidate.notes,
        rejection=None,
        failure=None,
    )
