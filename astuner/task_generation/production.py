"""Has drafts made until there are enough tasks, or no more are to be had.

Owns which turns are under way, and how far ahead of the order they may run. What they cost is
written down as they come; what becomes of them, the settlement says.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from astuner.errors import BackboneError, LlmBudgetError
from astuner.llm import LlmUsage, usage_tallied
from astuner.task_generation.draft import SIDES, DraftCandidate, DraftTurn, Side
from astuner.task_generation.drafted import DraftedTurn, DraftMaker, DraftWork, Halted
from astuner.task_generation.ledger import (
    CompleteLine,
    Ledger,
    LedgerContent,
    RateLine,
    SpentLine,
    draft_line,
)
from astuner.task_generation.made_task import task_of
from astuner.task_generation.pass_rate import PassRate
from astuner.task_generation.plan import DraftPlan, identity_of
from astuner.task_generation.request import GenerationOptions, GenerationParts
from astuner.task_generation.settlement import PASS_RATE_GATE, Settlement
from astuner.task_generation.spending import Spending

_MEASURED_TOGETHER = 32
"""Tasks whose pass rates are asked for at once; a kill loses no more than these."""
_MAX_TRIES = 2
"""Of one turn in one start; each has all the tries of its requests."""
_FEWEST_TRIES = 10
"""Before these, a fraction of failures says nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Measured:
    candidates: Sequence[DraftCandidate]
    rates: Sequence[PassRate]


class Production:
    """One start of a generation. Everything in it is changed from its event loop only."""

    def __init__(
        self,
        parts: GenerationParts,
        options: GenerationOptions,
        *,
        plan: DraftPlan,
        ledger: Ledger,
        settlement: Settlement,
        spending: Spending,
        report: Callable[["Production"], None],
    ) -> None:
        """`report` is called whenever something changed."""
        self._parts = parts
        self._options = options
        self._plan = plan
        self._ledger = ledger
        self._settlement = settlement
        self._spending = spending
        self._report = report
        self._maker = DraftMaker(parts, spending=spending, is_halted=self._is_enough)
        self._max_drafts = options.max_drafts_per_task * options.task_num
        self._ready: dict[int, DraftedTurn] = {}
        """Drafted and not settled, by turn."""
        self._under_way: dict[asyncio.Task[DraftedTurn], DraftWork] = {}
        self._measuring: asyncio.Task[_Measured] | None = None
        self._may_measure = parts.meter is not None
        self._frontier = 0
        """The turn that is settled next."""
        self._next: dict[Side, int] = dict.fromkeys(SIDES, 0)
        """No turn of the side before this one is still to be begun."""
        self._begun: set[int] = set()
        self._kept: set[int] = set()
        """Whose tasks were taken when the set was whole before."""
        self._tries: Counter[int] = Counter()
        self._failures: dict[int, str] = {}
        """Why the last try of a turn got no answer."""
        self.failed: dict[int, str] = {}
        """Turns that were given up for this start, with the reason."""
        self.is_recalled = False
        """Whether all that earlier starts left is at hand."""

    @property
    def is_measuring(self) -> bool:
        return self._measuring is not None

    @property
    def num_surplus(self) -> int:
        """Drafts of sides that were full before their turn came."""
        return sum(not drafted.failure for drafted in self._ready.values())

    async def run(self, content: LedgerContent) -> None:
        """Go on from what the ledger had. Raises BackboneError where too many drafts fail, and what
        no further question could mend; what came until then is settled."""
        try:
            await self._recall(content)
            self.is_recalled = True
            await self._produce()
            await self._note_if_complete()
        finally:
            await self._leave()
            if self.is_recalled:
                self._settle_past_gaps()
                self._report(self)

    def why_short(self) -> str | None:
        """Why there are fewer tasks than wanted; None: there are as many."""
        if self._is_enough():
            return None
        if reached := self._spending.limit_reached():
            return reached
        if self._num_drafts_left() <= 0:
            return (
                f"max_drafts_per_task = {self._options.max_drafts_per_task:g}: "
                f"{self._settlement.num_settled} drafts were made for "
                f"{self._options.task_num} tasks"
            )
        sides: list[Side] = [side for side in SIDES if not self._settlement.is_full(side)]
        if all(self._plan.is_over(side, self._frontier) for side in sides):
            return (
                f"for {' and '.join(sides)}, every chunk or seed was asked for each style and "
                "difficulty, and the model repeats itself at temperature 0; add documents, seeds "
                "or styles, or raise sampling_params.temperature"
            )
        return "of some drafts, no question or no attempt was answered"

    async def _recall(self, content: LedgerContent) -> None:
        """Have at hand what was drafted before; the same is not asked again."""
        at_once = asyncio.Semaphore(self._options.num_workers)

        async def prepare(drafted: DraftedTurn) -> None:
            if drafted.candidate is not None:
                async with at_once:
                    await self._parts.duplicates.prepare(drafted.candidate)

        drafted = content.drafted
        await asyncio.gather(*map(prepare, drafted.values()))
        for turns in content.complete:
            found = [drafted[turn].candidate for turn in turns if turn in drafted]
            self._settlement.keep([candidate for candidate in found if candidate is not None])
            self._kept |= {*turns}
        self._begun |= drafted.keys()
        self._ready |= {turn: drafted[turn] for turn in drafted.keys() - self._kept}
        for side in filter(self._settlement.is_full, SIDES):
            self._settle_rejections_again(side)

    def _settle_rejections_again(self, side: Side) -> None:
        """Those that came before the last task of a full side, which the frontier passes over."""
        of_side = [number for number in self._kept if self._plan.side_of(number) == side]
        for number in sorted(self._ready):
            is_before = self._plan.side_of(number) == side and number < max(of_side, default=0)
            if is_before and self._settlement.settle_if_rejected(self._ready[number]):
                del self._ready[number]

    async def _produce(self) -> None:
        while True:
            self._settle_in_order()
            self._begin_drafts()
            if not self._under_way and self._spending.limit_reached():
                self._settle_past_gaps()
            self._begin_measuring()
            self._report(self)
            under_way = {*self._under_way, *([self._measuring] if self._measuring else [])}
            if not under_way:
                return
            done, _ = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                self._collect(task)

    def _collect(self, task: asyncio.Task) -> None:
        if task is self._measuring:
            self._measuring = None
            self._settle_measured(task)
            return
        work = self._under_way.pop(task)
        try:
            drafted = task.result()
        except Halted:
            return
        number = work.turn.number
        self._ready[number] = drafted
        self._tries[number] += 1
        if drafted.failure:
            self._failures[number] = drafted.failure
            self._check_failures()
        else:
            self._failures.pop(number, None)

    def _settle_measured(self, task: asyncio.Task[_Measured]) -> None:
        try:
            measured = task.result()
        except LlmBudgetError as error:
            self._spending.end(str(error))
            self._may_measure = False
        else:
            self._settlement.settle_rates(measured.candidates, measured.rates)

    def _check_failures(self) -> None:
        num_drafts, num_failed = len(self._tries), len(self._failures)
        allowed = self._options.max_failed_fraction
        if self._tries.total() < _FEWEST_TRIES or num_failed <= allowed * num_drafts:
            return
        reason, times = Counter(self._failures.values()).most_common(1)[0]
        raise BackboneError(
            f"making tasks: {num_failed} of {num_drafts} drafts got no answer, more than "
            f"max_failed_fraction = {allowed:g} allows; what was answered is kept, so mend what is "
            f"wrong and start again. The commonest reason, {times} times: {reason}"
        )

    def _settle_in_order(self) -> None:
        while not self._is_enough() and not self._is_plan_over():
            number = self._frontier
            side = self._plan.side_of(number)
            is_passed = self._settlement.is_full(side) or self._plan.is_over(side, number)
            if is_passed or number in self._kept:
                self._frontier += 1
                continue
            drafted = self._ready.get(number)
            if drafted is None or not self._may_settle(side):
                return
            if drafted.failure and self._tries[number] < _MAX_TRIES:
                return
            self._settle(self._ready.pop(number))
            self._frontier += 1

    def _settle_past_gaps(self) -> None:
        """What is at hand, where nothing comes in between any more."""
        for number in sorted(self._ready):
            side = self._plan.side_of(number)
            if self._may_settle(side):
                self._settle(self._ready.pop(number))

    def _may_settle(self, side: Side) -> bool:
        return self._settlement.has_room(side) and self._num_drafts_left() > 0

    def _waits_for_rates(self, side: Side) -> bool:
        return not self._settlement.is_full(side) and not self._settlement.has_room(side)

    def _settle(self, drafted: DraftedTurn) -> None:
        if drafted.failure:
            self.failed[drafted.turn.number] = drafted.failure
        else:
            self._settlement.settle(drafted)

    def _begin_drafts(self) -> None:
        while len(self._under_way) < self._options.num_workers:
            if self._is_enough() or not self._spending.leaves_room(len(self._under_way)):
                return
            turn = self._next_turn()
            if turn is None:
                return
            self._begun.add(turn.number)
            work = DraftWork(turn=turn)
            self._under_way[asyncio.create_task(self._work(work))] = work

    def _next_turn(self) -> DraftTurn | None:
        """What is to be begun now: the turn that all others wait for, else the first missing one
        where more are needed."""
        if self._num_drafts_left() <= 0 or self._is_plan_over():
            return None
        waited_for = self._ready.get(self._frontier)
        if waited_for is not None and waited_for.failure:
            return self._ready.pop(self._frontier).turn
        is_settled_next = self._may_settle(self._plan.side_of(self._frontier))
        if is_settled_next and self._frontier not in self._begun:
            return self._plan.turn(self._frontier)
        numbers = [self._next_number(side) for side in SIDES if self._wants_more(side)]
        number = min((number for number in numbers if number is not None), default=None)
        if number is None or self._num_drafts_left() <= self._num_ahead():
            return None
        return self._plan.turn(number)

    def _next_number(self, side: Side) -> int | None:
        """The first turn of the side that was not begun; None where its plan is over."""
        number = max(self._next[side], self._frontier)
        while not self._plan.is_over(side, number) and (
            self._plan.side_of(number) != side or number in self._begun
        ):
            number += 1
        self._next[side] = number
        return None if self._plan.is_over(side, number) else number

    def _wants_more(self, side: Side) -> bool:
        """Whether those on their way may leave the side with tasks missing.

        As far as drafts become tasks as often as so far; the first ones are taken to do so always.
        """
        settlement = self._settlement
        on_their_way = [work.turn.side for work in self._under_way.values()]
        on_their_way += [drafted.turn.side for drafted in self._ready.values() if drafted.candidate]
        num_on_their_way = on_their_way.count(side) + settlement.num_unmeasured(side)
        share = (settlement.num_taken + 1) / (settlement.num_settled + 1)
        return num_on_their_way * min(1.0, share) < settlement.num_missing(side)

    def _num_drafts_left(self) -> float:
        return self._max_drafts - self._settlement.num_settled

    def _num_ahead(self) -> int:
        """Drafts that are still to be settled."""
        turns = [work.turn for work in self._under_way.values()]
        turns += [drafted.turn for drafted in self._ready.values()]
        return sum(not self._settlement.is_full(turn.side) for turn in turns)

    def _is_enough(self) -> bool:
        return all(self._settlement.is_full(side) for side in SIDES)

    def _is_plan_over(self) -> bool:
        return all(
            self._settlement.is_full(side) or self._plan.is_over(side, self._frontier)
            for side in SIDES
        )

    async def _work(self, work: DraftWork) -> DraftedTurn:
        with usage_tallied() as tally, self._spending.under_way(tally):
            try:
                drafted = work.drafted = await self._maker.make(work)
            finally:
                self._spending.count(work.usage, is_draft=work.drafted is not None)
                if work.drafted is None:
                    self._hold_spent(work.usage)
        await self._ledger.record(draft_line(drafted, work.usage))
        return drafted

    def _begin_measuring(self) -> None:
        waiting = self._settlement.unmeasured
        if self._measuring is not None or not waiting or not self._may_measure:
            return
        if (
            any(map(self._waits_for_rates, SIDES))
            or len(waiting) >= _MEASURED_TOGETHER
            or not self._under_way
        ):
            together = waiting[:_MEASURED_TOGETHER]
            self._measuring = asyncio.create_task(self._measure(together))

    async def _measure(self, candidates: Sequence[DraftCandidate]) -> _Measured:
        assert self._parts.meter is not None
        tasks = [task_of(candidate) for candidate in candidates]
        with usage_tallied() as tally, self._spending.under_way(tally):
            try:
                rates = await self._parts.meter.measure(tasks)
            finally:
                usage = {PASS_RATE_GATE: tally.usage}
                self._spending.count(usage, is_draft=False)
                self._hold_spent(usage)
        for candidate, rate in zip(candidates, rates, strict=True):
            if rate.value is not None:
                self._ledger.hold(
                    RateLine(
                        turn=candidate.turn.number,
                        identity=identity_of(candidate.turn),
                        num_solved=rate.num_solved,
                        num_judged=rate.num_judged,
                    )
                )
        await asyncio.to_thread(self._ledger.write)
        return _Measured(candidates=candidates, rates=rates)

    def _hold_spent(self, usage: Mapping[str, LlmUsage]) -> None:
        if any(of_gate != LlmUsage() for of_gate in usage.values()):
            self._ledger.hold(SpentLine(usage=dict(usage)))

    async def _note_if_complete(self) -> None:
        added = self._settlement.newly_taken
        if self._is_enough() and added:
            turns = [candidate.turn.number for candidate in added]
            await self._ledger.record(CompleteLine(taken=turns))

    async def _leave(self) -> None:
        """Nothing is under way any more, and the ledger has all that was answered."""
        tasks = [*self._under_way, *([self._measuring] if self._measuring else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for work in self._under_way.values():
            if work.drafted is not None:
                self._ready[work.turn.number] = work.drafted
        self._under_way = {}
        self._measuring = None
        self._ledger.write()
