"""How much memory a run will take, and what would make it fit: arithmetic over a footprint.

Counts what lasts (weights, optimizer) and the largest thing that comes and goes (a micro-batch's
activations, the cache).
"""

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from astuner.training.footprint import SUGGESTED_RANK, Footprint

GIB = 2**30

_FUSED_SHARE = 0.7
"""Of what transformers' own layers keep, Liger's keep so much (68% measured at 1.5B)."""
_STEP_OF_TOKENS = 256
_SHARE_OF_ROOM = 0.5
"""Of the memory that would stay free: the estimate is one, and others may use the device too."""
_ENOUGH_TOKENS = 65_536
"""Of a micro-batch. With more, layers of 135 million parameters are not faster on an H200."""
_ENOUGH_WORK = 6 * 10**13
"""Parameters times tokens of a micro-batch: some seconds on a GPU of a tenth of an H200's rate, and
many times what launching takes. A run that is to end waits for the micro-batch under way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """The settings that memory depends on."""

    itemsize: int
    """Bytes of a weight."""
    has_reference: bool
    """Frozen weights, for the divergence."""
    micro_batch_tokens: int
    is_checkpointed: bool
    has_fused_layers: bool
    masters_in_host_memory: bool
    moments_in_host_memory: bool
    max_model_len: int
    logit_bytes: int
    """Of a chunk of logits with its gradient."""
    reference_parameters: int | None = None
    """Of a reference that is another model; None: it is a copy, which an adapter makes needless."""


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """Bytes on the device, by what they are for."""

    lasting: dict[str, int]
    """All the time."""
    training: dict[str, int]
    """During a training pass, beside them."""
    rollout: dict[str, int]
    """During rollouts, beside them."""

    @property
    def peak(self) -> int:
        passing = max(sum(self.training.values()), sum(self.rollout.values()))
        return sum(self.lasting.values()) + passing

    def __str__(self) -> str:
        is_training = sum(self.training.values()) >= sum(self.rollout.values())
        parts = self.lasting | (self.training if is_training else self.rollout)
        listed = ", ".join(f"{name} {size / GIB:.2f}" for name, size in parts.items() if size)
        return f"{self.peak / GIB:.2f} GiB ({listed})"


def estimate_need(footprint: Footprint, plan: MemoryPlan) -> MemoryNeed:
    """Bytes that a run with these settings takes on its device at most."""
    weights = footprint.num_parameters * plan.itemsize
    reference = weights
    if plan.reference_parameters is not None:
        reference = plan.reference_parameters * plan.itemsize
    trained = footprint.num_trained
    has_masters = plan.itemsize < 4 and not plan.masters_in_host_memory
    if plan.is_checkpointed:
        kept = footprint.kept_per_token_checkpointed
    else:
        kept = footprint.kept_per_token
    if plan.has_fused_layers:
        kept *= _FUSED_SHARE
    return MemoryNeed(
        lasting={
            "weights": weights,
            "reference": reference if plan.has_reference else 0,
            "float32 weights": 4 * trained if has_masters else 0,
            "moments": 0 if plan.moments_in_host_memory else 8 * trained,
        },
        training={
            "gradients": 4 * trained,
            f"micro-batch of {plan.micro_batch_tokens} tokens": int(kept * plan.micro_batch_tokens),
            "logits": plan.logit_bytes,
        },
        rollout={"cache of one sequence": int(footprint.cache_per_token * plan.max_model_len)},
    )


@dataclass(frozen=True, slots=True)
class Remedy:
    """A change of settings that lowers the need."""

    text: str
    """Keys of the YAML with their new values."""
    footprint: Footprint
    plan: MemoryPlan


def remedies(
    footprint: Footprint, plan: MemoryPlan, available: int, *, with_adapter: Footprint | None
) -> list[Remedy]:
    """What makes the run fit, with as few changes of settings as possible; empty if nothing does.

    `with_adapter` is the model with a small adapter, unless it has one.
    """
    changes = list(_changes(plan, with_adapter))
    for num_changes in range(len(changes) + 1):
        found = []
        for chosen in combinations(changes, num_changes):
            remedy = Remedy(", ".join(text for text, _ in chosen), footprint, plan)
            for _, change in chosen:
                remedy = Remedy(remedy.text, *change(remedy.footprint, remedy.plan))
            for candidate in (remedy, _with_fewer_tokens(remedy, available)):
                if estimate_need(candidate.footprint, candidate.plan).peak <= available:
                    found.append(candidate)
                    break
        if found:
            return found
    return []


_Change = Callable[[Footprint, MemoryPlan], tuple[Footprint, MemoryPlan]]


def _changes(plan: MemoryPlan, with_adapter: Footprint | None) -> Iterator[tuple[str, _Change]]:
    def plan_with(**fields: Any) -> _Change:
        return lambda footprint, plan: (footprint, dataclasses.replace(plan, **fields))

    if not plan.is_checkpointed:
        yield (
            "trainer_common.enable_gradient_checkpointing: true",
            plan_with(is_checkpointed=True),
        )
    if plan.has_reference:
        yield (
            "trainer_common.use_kl_loss: false (and algorithm.use_kl_in_reward: false)",
            plan_with(has_reference=False),
        )
    if with_adapter is not None:
        yield (
            f"model.lora.rank: {SUGGESTED_RANK}",
            lambda _, plan: (with_adapter, _without_copy(plan)),
        )


def _without_copy(plan: MemoryPlan) -> MemoryPlan:
    is_another = plan.has_reference and plan.reference_parameters is not None
    return dataclasses.replace(plan, has_reference=is_another)


def _with_fewer_tokens(remedy: Remedy, available: int) -> Remedy:
    """With micro-batches as large as there is room for; unchanged where there is none."""
    plan = remedy.plan
    num_tokens = _tokens_that_fit(remedy.footprint, plan, available, share_of_room=1)
    if not 0 < num_tokens < plan.micro_batch_tokens:
        return remedy
    keys = [f"trainer_common.max_token_len_per_gpu: {num_tokens}"]
    if num_tokens < plan.max_model_len:  # a longer sample would go alone
        keys.append(f"rollout.max_model_len: {num_tokens}")
    text = " with ".join(filter(None, [remedy.text, " and ".join(keys)]))
    fewer = dataclasses.replace(plan, micro_batch_tokens=num_tokens)
    return Remedy(text, remedy.footprint, fewer)


def with_larger_batch(
    footprint: Footprint, plan: MemoryPlan, available: int, *, step_tokens: int
) -> MemoryPlan:
    """With micro-batches that fill half of the memory that is left, where that makes them larger:
    of no more tokens than a step has, and than make a pass faster."""
    fitting = _tokens_that_fit(footprint, plan, available, share_of_room=_SHARE_OF_ROOM)
    enough = _in_steps(_ENOUGH_WORK / footprint.num_parameters)
    num_tokens = max(plan.micro_batch_tokens, min(fitting, step_tokens, _ENOUGH_TOKENS, enough))
    return dataclasses.replace(plan, micro_batch_tokens=num_tokens)


def _tokens_that_fit(
    footprint: Footprint, plan: MemoryPlan, available: int, *, share_of_room: float
) -> int:
    """Tokens of a micro-batch; none or fewer where there is no room."""
    empty = estimate_need(footprint, dataclasses.replace(plan, micro_batch_tokens=0))
    room = available - sum(empty.lasting.values()) - sum(empty.training.values())
    whole = estimate_need(footprint, plan).training
    per_token = (sum(whole.values()) - sum(empty.training.values())) / plan.micro_batch_tokens
    return _in_steps(share_of_room * room / per_token)


def _in_steps(num_tokens: float) -> int:
    return int(num_tokens) // _STEP_OF_TOKENS * _STEP_OF_TOKENS
