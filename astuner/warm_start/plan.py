"""Which conversations are held out, and in which update each of the others is learned."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from astuner.warm_start.samples import LearnedConversation

_FEW = 64
"""Of those that are learned, so many are measured where none is held out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmStartPlan:
    """The same from the same conversations and seed."""

    updates: Sequence[Sequence[LearnedConversation]]
    """What each update learns."""
    updates_per_epoch: int
    held_out: Sequence[LearnedConversation]
    """Never learned; may be empty."""
    measured: Sequence[LearnedConversation]
    """Whose loss tells how it goes: those held out, else some of the others."""

    @property
    def num_tokens(self) -> int:
        return sum(one.num_tokens for update in self.updates for one in update)

    def is_measured_after(self, update: int) -> bool:
        """At the end of each epoch, and of the whole; `update` counts from 1."""
        return update % self.updates_per_epoch == 0 or update == len(self.updates)


def make_plan(
    conversations: Sequence[LearnedConversation],
    *,
    epochs: float,
    batch_size: int,
    validation_share: float,
    seed: int,
) -> WarmStartPlan:
    """Each epoch deals all of them anew; of a part of an epoch its first updates are done.

    Of so few that the share is less than one conversation, none is held out. There is at least one
    update. Raises ValueError for no conversation.
    """
    if not conversations:
        raise ValueError("nothing to learn from")
    rng = random.Random(f"warm start/{seed}")
    shuffled = rng.sample(list(conversations), len(conversations))
    num_held_out = min(int(len(shuffled) * validation_share), len(shuffled) - 1)
    held_out, learned = shuffled[:num_held_out], shuffled[num_held_out:]
    per_epoch = math.ceil(len(learned) / batch_size)
    num_updates = max(1, round(epochs * per_epoch))
    updates: list[Sequence[LearnedConversation]] = []
    while len(updates) < num_updates:
        order = rng.sample(learned, len(learned))
        updates += [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    return WarmStartPlan(
        updates=updates[:num_updates],
        updates_per_epoch=per_epoch,
        held_out=held_out,
        measured=held_out or learned[:_FEW],
    )
