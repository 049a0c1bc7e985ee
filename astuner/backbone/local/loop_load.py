"""Notices that the code of agents, and not the model, takes the time of rollouts."""

import os
from collections.abc import Callable

_LARGE_SHARE = 0.4
"""Of a rollout: the engine's thread needs the same interpreter, and shares it by turns."""
_LEAST_SECONDS = 1.0
_MOST_WORKERS = 8


class LoopLoad:
    """How busy the thread of agents and judges is."""

    def __init__(self, say: Callable[[str], None], *, is_of_interest: bool) -> None:
        """On a CPU agents and model take turns anyway."""
        self._say = say
        self._num_left_out = 1
        """The first rollout imports what agents use."""
        self._is_of_interest = is_of_interest

    def note(self, *, busy_seconds: float, seconds: float) -> None:
        """Of a rollout that took `seconds`, the thread computed for `busy_seconds`."""
        if self._num_left_out:
            self._num_left_out -= 1
            return
        share = busy_seconds / seconds if seconds else 0.0
        if not self._is_of_interest or seconds < _LEAST_SECONDS or share < _LARGE_SHARE:
            return
        self._is_of_interest = False
        num_workers = max(1, min(_MOST_WORKERS, (os.cpu_count() or 1) // 2))
        self._say(
            f"agents' and judges' own code took {share:.0%} of the rollout's {seconds:.1f} s, and "
            f"the GPU waited for it; astuner.rollout.num_workers={num_workers} runs agents in "
            "processes of their own"
        )
