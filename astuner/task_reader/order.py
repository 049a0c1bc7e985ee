"""In which order the training tasks are used: by shares, shuffled anew in every pass, resumable."""

import random
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Self

from astuner.errors import ConfigError
from astuner.task_reader.shares import Shares
from astuner.types import Task

RATES = "pass_rates"
"""Stands in the state of a curriculum only."""
_NEEDED = {"num_tasks", "seed", "epoch", "position"}


class TaskOrder:
    """Batches of task indices, without end. The training loop owns it and saves its state.

    Each source goes through its tasks in passes: pass `p` visits them as
    `random.Random(seed + p)` shuffles them. What is taken of a source for one batch never spans two
    of its passes: the last tasks, too few for that, are left out of the pass (other tasks in every
    pass, for the order differs). With one source a pass is an epoch. An epoch of several is as many
    batches as all tasks would fill: some of a source with a small share come in a later one, those
    of a source with a large share come more than once.
    """

    def __init__(
        self,
        num_tasks: int,
        *,
        batch_size: int,
        seed: int,
        sources: Sequence[str] | None = None,
        shares: Mapping[str, float] | None = None,
    ) -> None:
        """`sources` names the source of each task, `shares` the share of each source in a batch;
        without them there is one source.

        Raises ConfigError when there are fewer tasks, of a source or in all, than one batch needs.
        """
        check_batch_size(batch_size, num_tasks)
        names = [""] * num_tasks if sources is None else sources
        shares = {"": 1.0} if shares is None else shares
        self._num_tasks, self._batch_size, self._seed = num_tasks, batch_size, seed
        self._shares = Shares(shares)
        self._decks = {
            name: _Deck([i for i, own in enumerate(names) if own == name], seed) for name in shares
        }
        sizes = {name: len(deck) for name, deck in self._decks.items()}
        check_sources(sizes, self._shares, batch_size)
        self._epoch, self._position = 0, 0

    @classmethod
    def of_tasks(
        cls, tasks: Sequence[Task], shares: Mapping[str, float], *, batch_size: int, seed: int
    ) -> Self:
        """The order of a run; `shares` are those of the tasks' sources."""
        sources = [task.source for task in tasks]
        return cls(len(tasks), batch_size=batch_size, seed=seed, sources=sources, shares=shares)

    @classmethod
    def from_state(cls, state: Mapping[str, Any], num_tasks: int, *, batch_size: int) -> Self:
        """The order of one source that goes on where `state` was taken; see `go_on`."""
        order = cls(num_tasks, batch_size=batch_size, seed=0)
        order.go_on(state)
        return order

    @property
    def batches_per_epoch(self) -> int:
        return self._num_tasks // self._batch_size

    @property
    def epoch(self) -> int:
        """Of the batch that `next_batch` last gave; counts from 0."""
        return self._epoch

    def go_on(self, state: Mapping[str, Any]) -> None:
        """Stand where `state` was taken, with its seed.

        Another batch size is fine: the order of the tasks stays. Other shares hold from here on.
        From the state of a curriculum it begins a first pass.
        Raises ConfigError when the number of tasks or the sources are others, or the state is not
        complete.
        """
        check_state(
            state,
            needed={"num_tasks"} if RATES in state else _NEEDED,
            num_tasks=self._num_tasks,
            sources=self._decks,
        )
        if RATES in state:
            return
        sources = state.get("sources") or _one_source(state)
        self._epoch, self._position = state["epoch"], state["position"]
        for name, deck in self._decks.items():
            deck.go_on(sources[name]["pass"], sources[name]["position"], seed=state["seed"])
        self._seed = state["seed"]
        self._shares.go_on(sources)

    def next_batch(self, count: int | None = None) -> list[int]:
        """Indices of the next `count` tasks, by default `batch_size`, all different."""
        count = self._batch_size if count is None else count
        if self._position + count > self._num_tasks:
            self._epoch, self._position = self._epoch + 1, 0
        self._position += count
        dealt = {
            name: self._decks[name].deal(number)
            for name, number in self._shares.split(count).items()
        }
        return spread(dealt)

    def state(self) -> dict[str, Any]:
        """What `from_state` needs, as JSON."""
        state: dict[str, Any] = {
            "num_tasks": self._num_tasks,
            "seed": self._seed,
            "epoch": self._epoch,
            "position": self._position,
        }
        if "" not in self._decks:
            shares = self._shares.state()
            state["sources"] = {
                name: {"pass": deck.number, "position": deck.position, **shares[name]}
                for name, deck in self._decks.items()
            }
        return state


class _Deck:
    """The tasks of one source, dealt in passes."""

    def __init__(self, indices: Sequence[int], seed: int) -> None:
        self._sorted = indices
        self.go_on(0, 0, seed=seed)

    def __len__(self) -> int:
        return len(self._sorted)

    def go_on(self, number: int, position: int, *, seed: int) -> None:
        """Stand in the pass of that number, behind so many of its tasks."""
        self.number, self.position, self._seed = number, position, seed
        self._shuffled = list(self._sorted)
        random.Random(seed + number).shuffle(self._shuffled)

    def deal(self, count: int) -> list[int]:
        if self.position + count > len(self):
            self.go_on(self.number + 1, 0, seed=self._seed)
        start, self.position = self.position, self.position + count
        return self._shuffled[start : self.position]


def check_batch_size(batch_size: int, num_tasks: int) -> None:
    """Raises ConfigError where the tasks are too few for a batch."""
    if not 1 <= batch_size <= num_tasks:
        raise ConfigError(
            f"data.train_batch_size is {batch_size}, but there are {num_tasks} training "
            f"tasks; set it to between 1 and {num_tasks}, or give more tasks"
        )


def check_sources(sizes: Mapping[str, int], shares: Shares, batch_size: int) -> None:
    """Raises ConfigError where a source has fewer tasks than a batch may ask of it."""
    most = shares.most(batch_size)
    for name, size in sizes.items():
        if size < most[name]:
            raise ConfigError(
                f"task_reader.mixture.sources.{name}: has {size} training tasks, and its share "
                f"of a batch of {batch_size} is up to {most[name]}; lower that share or "
                "data.train_batch_size, or give more tasks"
            )


def check_state(
    state: Mapping[str, Any], *, needed: Collection[str], num_tasks: int, sources: Collection[str]
) -> None:
    """Raises ConfigError for the state of an order of other tasks or sources, or a part of one."""
    missing = set(needed) - set(state)
    if missing:
        raise ConfigError(
            f"cannot resume the order of the tasks: the checkpoint lacks {sorted(missing)}, "
            f"found {sorted(state)}; start a new run from its weights"
        )
    if state["num_tasks"] != num_tasks:
        raise ConfigError(
            f"cannot resume the order of the tasks: the checkpoint was saved with "
            f"{state['num_tasks']} training tasks, now there are {num_tasks}; resume "
            "with the same data, or start a new run from the checkpoint's weights"
        )
    before = state.get("sources") or {"": {}}
    if set(before) != set(sources):
        raise ConfigError(
            "cannot resume the order of the tasks: the checkpoint was saved with the sources "
            f"{sorted(before)}, now they are {sorted(sources)}; resume with the same "
            "sources, or start a new run from the checkpoint's weights"
        )


def _one_source(state: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    return {"": {"pass": state["epoch"], "position": state["position"]}}


def spread(dealt: Mapping[str, Sequence[int]]) -> list[int]:
    """The tasks of all sources, those of each as evenly over the batch as can be, in its order."""
    placed = [
        ((number + 0.5) / len(indices), index)
        for indices in dealt.values()
        for number, index in enumerate(indices)
    ]
    return [index for _, index in sorted(placed, key=lambda place: place[0])]
