"""An order of the training tasks by how often they are solved. Knows no episodes and no files.

A group teaches by the spread of its rewards, which is widest where about half of its episodes
succeed: the variance p(1-p) of success bounds from below what a step improves (arXiv 2504.03380),
and prompts that are solved about half of the time need the fewest samples (arXiv 2510.01135). So
tasks of medium difficulty come often, and others often enough to see when they have become medium.
"""

import heapq
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

from astuner.config.schema import Settings
from astuner.config.sections.trainer_common import CurriculumSettings
from astuner.task_reader.order import (
    RATES,
    TaskOrder,
    check_batch_size,
    check_sources,
    check_state,
    spread,
)
from astuner.task_reader.shares import Shares
from astuner.task_reader.sources import shares_of
from astuner.types import Task

PoolName = Literal["unknown", "easy", "medium", "hard"]
POOLS: tuple[PoolName, ...] = get_args(PoolName)
_METADATA_KEY = "pass_rate"
_NEEDED = {"num_tasks", "num_dealt", RATES, "dealt_at", "sources"}
_NEVER = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class DifficultyRules:
    """Which pool a task is in, how often a pool is dealt from, and what a measurement changes."""

    easy_above: float
    hard_below: float
    weights: Mapping[PoolName, float]
    """Of all pools, not negative, relative to each other."""
    memory: float
    """At least 0 and below 1."""

    @classmethod
    def of(cls, settings: CurriculumSettings) -> Self:
        return cls(
            easy_above=settings.easy_above,
            hard_below=settings.hard_below,
            weights={pool: getattr(settings.weights, pool) for pool in POOLS},
            memory=settings.memory,
        )

    def pool_of(self, rate: float | None) -> PoolName:
        if rate is None:
            return "unknown"
        if rate > self.easy_above:
            return "easy"
        return "hard" if rate < self.hard_below else "medium"

    def updated(self, rate: float | None, measured: float) -> float:
        """memory x rate + (1 - memory) x measured; the first measurement of a task is its rate."""
        return measured if rate is None else self.memory * rate + (1 - self.memory) * measured


class CurriculumOrder:
    """Batches of task indices, without end, from pools by pass rate. Its owner tells it what became
    of the tasks, and saves its state.

    Each place of a batch goes to the pool that is owed most, by the weights of those pools that
    have a task to give: an empty one leaves its part to the others, and one of weight 0 gives only
    where no other can. Within a pool the task comes that was dealt longest ago, and those that
    never were in an order by seed; so each task of a pool with a weight comes again. A task that
    was dealt is out until it is told of, and while it is out it comes again only where all tasks
    of its source are. The same seed and the same news give the same batches. The shares of the
    sources hold as in `TaskOrder`, and each source has pools of its own.
    """

    def __init__(
        self,
        rates: Sequence[float | None],
        *,
        rules: DifficultyRules,
        batch_size: int,
        seed: int,
        sources: Sequence[str] | None = None,
        shares: Mapping[str, float] | None = None,
    ) -> None:
        """`rates` has what is known of each task: None, or from 0 to 1. `sources` and `shares` are
        those of `TaskOrder`. Raises ConfigError as it does."""
        check_batch_size(batch_size, len(rates))
        shares = {"": 1.0} if shares is None else shares
        self._source_of = [""] * len(rates) if sources is None else list(sources)
        self._rules, self._batch_size = rules, batch_size
        self._shares = Shares(shares)
        sizes = {name: self._source_of.count(name) for name in shares}
        check_sources(sizes, self._shares, batch_size)
        self._rates = list(rates)
        self._dealt_at = [_NEVER] * len(rates)
        self._num_dealt = 0
        self._ranks = list(range(len(rates)))
        random.Random(seed).shuffle(self._ranks)
        self._stocks = {name: _Stock(rules.weights) for name in shares}
        self._out: set[int] = set()
        self._fill()

    @property
    def batches_per_epoch(self) -> int:
        """As many as all tasks would fill; some tasks come more than once in them, some later."""
        return len(self._rates) // self._batch_size

    @property
    def epoch(self) -> int:
        """Of the batch that `next_batch` last gave; counts from 0."""
        return max(0, self._num_dealt - 1) // len(self._rates)

    def next_batch(self, count: int | None = None) -> list[int]:
        """Indices of the next `count` tasks, by default `batch_size`, all different."""
        count = self._batch_size if count is None else count
        began = self._num_dealt
        return spread(
            {
                name: [self._deal(name, began) for _ in range(number)]
                for name, number in self._shares.split(count).items()
            }
        )

    def tell(self, index: int, *, num_solved: int, num_judged: int) -> None:
        """What came of a task that was dealt: of its judged episodes, so many solved it.

        Without a judged one nothing is learned of it, and it can be dealt again.
        """
        if index in self._out:
            self._out.discard(index)
        else:  # it was dealt again meanwhile, or is told of twice
            self._stock(index).remove(self.pool_of(index), self._entry(index))
        if num_judged:
            self._rates[index] = self._rules.updated(self._rates[index], num_solved / num_judged)
        self._add(index)

    def pool_of(self, index: int) -> PoolName:
        """By what is known of the task now."""
        return self._rules.pool_of(self._rates[index])

    def pool_sizes(self) -> dict[PoolName, int]:
        """Tasks in each pool, those that are out included."""
        sizes = dict.fromkeys(POOLS, 0)
        for rate in self._rates:
            sizes[self._rules.pool_of(rate)] += 1
        return sizes

    def state(self) -> dict[str, Any]:
        """What `go_on` needs, as JSON. Tasks that are out are so no more once it goes on."""
        shares = self._shares.state()
        return {
            "num_tasks": len(self._rates),
            "num_dealt": self._num_dealt,
            RATES: list(self._rates),
            "dealt_at": list(self._dealt_at),
            "sources": {
                name: {**shares[name], "owed": dict(stock.owed)}
                for name, stock in self._stocks.items()
            },
        }

    def go_on(self, state: Mapping[str, Any]) -> None:
        """Stand where `state` was taken. Other rules, shares and batch sizes hold from here on.

        From the state of a `TaskOrder`, which knows no rates, it begins with those of the tasks.
        Raises ConfigError when the number of tasks or the sources are others, or the state is not
        complete.
        """
        is_ours = RATES in state
        check_state(
            state,
            needed=_NEEDED if is_ours else {"num_tasks"},
            num_tasks=len(self._rates),
            sources=self._stocks,
        )
        if not is_ours:
            return
        self._rates, self._dealt_at = list(state[RATES]), list(state["dealt_at"])
        self._num_dealt = state["num_dealt"]
        self._shares.go_on(state["sources"])
        self._fill()
        for name, stock in self._stocks.items():
            stock.owed = dict(state["sources"][name]["owed"])

    def _deal(self, source: str, began: int) -> int:
        stock = self._stocks[source]
        if stock.is_empty:
            self._take_back(source, began)
        index = stock.take()
        self._dealt_at[index], self._num_dealt = self._num_dealt, self._num_dealt + 1
        self._out.add(index)
        return index

    def _take_back(self, source: str, began: int) -> None:
        """What is out of a source, but for the batch that `began` with this number."""
        for index in list(self._out):
            if self._source_of[index] == source and self._dealt_at[index] < began:
                self._out.discard(index)
                self._add(index)

    def _fill(self) -> None:
        self._out.clear()
        self._stocks = {name: _Stock(self._rules.weights) for name in self._stocks}
        for index in range(len(self._rates)):
            self._add(index)

    def _add(self, index: int) -> None:
        self._stock(index).add(self.pool_of(index), self._entry(index))

    def _stock(self, index: int) -> "_Stock":
        return self._stocks[self._source_of[index]]

    def _entry(self, index: int) -> "_Entry":
        return (self._dealt_at[index], self._ranks[index], index)


_Entry = tuple[int, int, int]
"""When a task was dealt last, its place among those that never were, and its index."""


class _Stock:
    """The tasks of one source that can be dealt, by pool. The order is the owner."""

    def __init__(self, weights: Mapping[PoolName, float]) -> None:
        self._weights = weights
        self._heaps: dict[PoolName, list[_Entry]] = {name: [] for name in POOLS}
        self.owed: dict[PoolName, float] = dict.fromkeys(POOLS, 0.0)
        """Places that a pool had too few so far; below 0, too many."""

    @property
    def is_empty(self) -> bool:
        return not any(self._heaps.values())

    def add(self, pool: PoolName, entry: _Entry) -> None:
        heapq.heappush(self._heaps[pool], entry)

    def remove(self, pool: PoolName, entry: _Entry) -> None:
        self._heaps[pool].remove(entry)
        heapq.heapify(self._heaps[pool])

    def take(self) -> int:
        """The next task. Each place gives every pool its part, and takes 1 from the one that it
        goes to: the smooth weighted round robin of nginx."""
        able: list[PoolName] = [pool for pool in POOLS if self._heaps[pool]]
        weights: dict[PoolName, float] = {p: self._weights[p] for p in able if self._weights[p]}
        if not weights:
            weights = dict.fromkeys(able, 1.0)
        whole = sum(weights.values())
        for pool, weight in weights.items():
            self.owed[pool] += weight / whole
        pool = max(weights, key=lambda pool: self.owed[pool])
        self.owed[pool] -= 1
        return heapq.heappop(self._heaps[pool])[-1]


def make_order(settings: Settings, tasks: Sequence[Task]) -> TaskOrder | CurriculumOrder:
    """The order that the settings ask for. Raises ConfigError as they do for too few tasks."""
    curriculum, shares = settings.trainer_common.curriculum, shares_of(settings.task_reader)
    size, seed = settings.data.train_batch_size, settings.trainer_common.seed
    if not curriculum.enabled:
        return TaskOrder.of_tasks(tasks, shares, batch_size=size, seed=seed)
    return CurriculumOrder(
        [known_rate(task) for task in tasks],
        rules=DifficultyRules.of(curriculum),
        batch_size=size,
        seed=seed,
        sources=[task.source for task in tasks],
        shares=shares,
    )


def known_rate(task: Task) -> float | None:
    """The pass rate in the task's metadata; None where there is none from 0 to 1."""
    value = task.metadata.get(_METADATA_KEY)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 <= value <= 1 else None


def has_unusable_rate(task: Task) -> bool:
    """Whether the metadata has a pass rate that is none."""
    return task.metadata.get(_METADATA_KEY) is not None and known_rate(task) is None
