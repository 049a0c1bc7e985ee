"""What a curriculum deals for the steps of a run, and learns of their episodes.

Owned by whoever runs the steps: the loop of the backbone local, the hub of a cluster.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from astuner.task_reader.curriculum import POOLS, CurriculumOrder, PoolName, has_unusable_rate
from astuner.trajectory.episode import Group
from astuner.types import Task


class CurriculumSteps:
    """The order of a run with the steps that were dealt and not finished yet."""

    def __init__(self, order: CurriculumOrder, tasks: Sequence[Task]) -> None:
        self._order = order
        self._unusable = [task.task_id for task in tasks if has_unusable_rate(task)]
        self._index_of = {task.task_id: index for index, task in enumerate(tasks)}
        self._dealt: defaultdict[int, list[int]] = defaultdict(list)
        self._pools: defaultdict[int, Counter[PoolName]] = defaultdict(Counter)

    def deal(self, step: int, num_tasks: int) -> list[int]:
        """Indices of further tasks for the step."""
        indices = self._order.next_batch(num_tasks)
        self._dealt[step] += indices
        self._pools[step].update(self._order.pool_of(index) for index in indices)
        return indices

    def finish(self, step: int, groups: Sequence[Group]) -> dict[str, float]:
        """Learn what came of the step: of each task how many of its judged episodes are a success.

        Failed episodes count neither way, and of a task without groups nothing is learned. So it
        is with an earlier step that was not finished: an engine lost it. Returns the metrics of the
        step.
        """
        solved, judged = Counter[int](), Counter[int]()
        for group in groups:
            index = self._index_of[group.task.task_id]
            judged[index] += len(group.judged)
            solved[index] += sum(e.verdict.is_success for e in group.judged if e.verdict)
        over = [other for other in self._dealt if other <= step]
        ended = [index for other in over for index in self._dealt.pop(other)]
        for index in dict.fromkeys([*ended, *judged]):
            self._order.tell(index, num_solved=solved[index], num_judged=judged[index])
        dealt = self._pools.pop(step, Counter())
        return {
            **{f"curriculum/dealt_{pool}": float(dealt[pool]) for pool in POOLS},
            **_named_sizes(self._order.pool_sizes()),
        }

    def state(self) -> dict[str, Any]:
        """Of the order, as JSON."""
        return self._order.state()

    def describe(self) -> str:
        """A line on what is known of the tasks, for the start of a run."""
        sizes = ", ".join(f"{size} {pool}" for pool, size in self._order.pool_sizes().items())
        if not self._unusable:
            return f"curriculum: {sizes}"
        return (
            f"curriculum: {sizes}; the pass_rate of {len(self._unusable)} tasks, such as "
            f"{self._unusable[0]}, is no number from 0 to 1 and not used"
        )


def _named_sizes(sizes: Mapping[PoolName, int]) -> dict[str, float]:
    return {f"curriculum/pool_{pool}": float(size) for pool, size in sizes.items()}
