"""The seam to a backbone: token ids in, token ids and log-probabilities out.

Owns the protocol and the sampling settings, no implementation.
"""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from astuner.types import Completion


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How one completion is sampled."""

    temperature: float
    """0 means greedy."""
    top_p: float
    """In (0, 1]; 1 keeps the whole distribution."""
    top_k: int
    """-1 keeps the whole distribution."""
    max_new_tokens: int
    """At least 1."""
    stop_ids: frozenset[int]
    """Sampling ends after any of these; the id itself is part of the completion."""
    num_top_logprobs: int = 0
    """Most probable tokens that are told beside each sampled one."""


Observe = Callable[[Sequence[int]], bool]
"""Told of newly sampled ids, in order, maybe from another thread; True: no more are wanted."""


class Engine(Protocol):
    """Samples completions for token ids.

    Many `generate` calls are awaited at once. Cancelling the awaiting task cancels the generation.
    """

    @property
    def weight_version(self) -> int:
        """Grows by one with each update of the weights."""
        ...

    async def generate(
        self,
        prompt_ids: Sequence[int],
        sampling: Sampling,
        *,
        caller: str,
        index: int,
        observe: Observe | None = None,
    ) -> Completion:
        """Sample one completion.

        `observe` is told of the ids as they are sampled, by an engine that can; the completion may
        hold ids that it was not told of, and some behind those at which it wanted no more.

        `caller` names who asks, for instance an episode, and `index` counts its calls; engines that
        can be repeated draw the same random numbers for the same names.
        Raises EngineError when the engine stopped or the prompt cannot be served.
        """
        ...


class TrainedEngine(Engine, Protocol):
    """An engine whose weights are trained in the same process."""

    @property
    def tokens_sampled(self) -> int:
        """Since the engine was made."""
        ...

    def serving(self) -> contextlib.AbstractAsyncContextManager[None]:
        """Answer `generate` inside of the block; outside, the model belongs to the trainer."""
        ...

    def weights_updated(self) -> None:
        """The weights were changed in place; from the next `serving` on, the new ones sample."""
        ...
