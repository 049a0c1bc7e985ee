"""Which of the rows that episodes brought are trained: verl's sampler, asking the hub."""

# verl is installed in a virtual environment of its own:
# pyright: reportMissingImports=false

from typing import Any

import ray
import transfer_queue as tq
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer

from astuner.backbone.cluster.messages import StepPlan
from astuner.backbone.cluster.remote import find_hub
from astuner.errors import BackboneError

ADVANTAGES, WEIGHT = "astuner_advantages", "astuner_weight"
"""Tags of a row."""

_POLL_SECONDS = 0.1
"""verl's own 2 s would be a large part of a short step."""


class EpisodeBuffer(ReplayBuffer):
    """Waits for the groups of a step and keeps the rows that teach something.

    Sequences beyond rollout.multi_turn.max_sample_per_task, groups without spread and episodes
    without a companion are dropped here, as on `local`.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings, poll_interval=_POLL_SECONDS)
        self._hub = find_hub()

    def sample(
        self, global_steps: int, partition_id: str, batch_size: int
    ) -> tuple[KVBatchMeta, dict[str, Any]]:
        batch, metrics = super().sample(
            global_steps=global_steps, partition_id=partition_id, batch_size=batch_size
        )
        if partition_id != "train":
            self._check_validation(batch, global_steps)
            return batch, metrics
        while (plan := ray.get(self._hub.plan.remote(global_steps))).num_missing:
            assert self.refill_fn is not None
            self.refill_fn(plan.num_missing)
            more, _ = super().sample(
                global_steps=global_steps, partition_id=partition_id, batch_size=plan.num_missing
            )
            batch = KVBatchMeta(
                partition_id=partition_id,
                keys=[*batch.keys, *more.keys],
                tags=[*batch.tags, *more.tags],
            )
        return _planned(batch, plan), metrics

    def _check_validation(self, batch: KVBatchMeta, step: int) -> None:
        """verl reads rows though there are none; the hub knows why, and ends the run with it."""
        if batch.keys:
            return
        ray.get(self._hub.finish_validation.remote(step))
        raise BackboneError(f"validation after step {step}: no episode gave verl a row")


def _planned(batch: KVBatchMeta, plan: StepPlan) -> KVBatchMeta:
    """The rows of the plan, their advantages with them; the others are forgotten."""
    if not plan.samples:
        raise BackboneError("no sample of the step teaches anything")
    found = dict(zip(batch.keys, batch.tags, strict=True))
    chosen = {sample.key.text: sample for sample in plan.samples}
    missing = [key for key in chosen if key not in found]
    if missing:
        raise BackboneError(f"verl has no row for {len(missing)} samples, such as {missing[0]}")
    dropped = [key for key in batch.keys if key not in chosen]
    if dropped:
        tq.kv_clear(keys=dropped, partition_id=batch.partition_id)
    tags = [
        {**found[key], ADVANTAGES: sample.advantages, WEIGHT: sample.weight}
        for key, sample in chosen.items()
    ]
    # verl reads the tags of a batch again after it wrote to it.
    tq.kv_batch_put(keys=list(chosen), partition_id=batch.partition_id, tags=tags)
    return KVBatchMeta(partition_id=batch.partition_id, keys=list(chosen), tags=tags)
