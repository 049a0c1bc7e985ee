"""verl's synchronous trainer, telling the hub what it does and taking its advantages from it.

Registered with verl by name; `runner.py` imports it where verl looks the name up.
"""

# verl is installed in a virtual environment of its own:
# pyright: reportMissingImports=false

import math
from typing import Any

import ray
import torch
import transfer_queue as tq
from omegaconf import DictConfig, open_dict
from tensordict import TensorDict
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1.trainer_base import register_trainer
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync
from verl.workers.utils.padding import response_from_nested, response_to_nested

from astuner.backbone.cluster.messages import SAVING, Probe, SavedState
from astuner.backbone.cluster.remote import find_hub
from astuner.backbone.verl.buffer import ADVANTAGES, WEIGHT
from astuner.backbone.verl.config import TRAINER_NAME
from astuner.backbone.verl.metrics import our_metrics

_NUM_PROBES = 8


@register_trainer(TRAINER_NAME)
class EpisodeTrainer(PPOTrainerSync):
    """Trains on the hub's plan of each step."""

    def __init__(self, config: DictConfig) -> None:
        with open_dict(config):  # verl asks this name, too, how the trainer works
            config.trainer.v1.trainer_mode = "sync"
        self._hub = find_hub()
        settings = ray.get(self._hub.worker_run.remote()).settings
        self._mini_batch_num = settings.trainer_common.mini_batch_num
        self._records_training = settings.trainer_common.record_training
        self._batch: KVBatchMeta | None = None
        self._saved_step = 0
        super().__init__(config)

    def _setup(self) -> None:
        self._enter("loading the model and its engines", at_step=False)
        super()._setup()

    def on_init_end(self) -> None:
        self._enter("weight sync", at_step=False)
        super().on_init_end()
        self._enter("starting the episodes' workers", at_step=False)

    def _load_checkpoint(self) -> None:
        super()._load_checkpoint()
        if self.train_dataset.is_dealt:
            # The hub knows where it stood, and the place in a loader that dealt by itself, before a
            # curriculum was turned on, is none of this one, which torchdata asserts.
            self.train_dataloader.next_iter_state = None

    def on_validate_begin(self) -> None:
        rollout = self.config.actor_rollout_ref.rollout
        self._enter("validation", total=len(self.val_dataset) * rollout.val_kwargs.n)
        super().on_validate_begin()

    def on_validate_end(self) -> None:
        super().on_validate_end()
        ray.get(self._hub.finish_validation.remote(self.global_steps))
        # Behind the last step verl ends its actors: nobody shall look for them any more.
        self._enter("closing the step")

    def on_step_begin(self) -> None:
        self.train_dataset.step = self.global_steps
        rollout = self.config.actor_rollout_ref.rollout
        self._enter("rollout", total=self.config.data.train_batch_size * rollout.n)
        super().on_step_begin()

    def on_sample_end(self) -> None:
        self._enter("update")
        super().on_sample_end()

    def on_step_end(self) -> None:
        self._enter("weight sync")
        super().on_step_end()
        if ray.get(self._hub.is_stop_requested.remote()):
            if self._saved_step != self.global_steps:
                self._save_checkpoint()
            self.total_training_steps = self.global_steps

    def step(self, metrics: dict[str, Any], timing_raw: dict[str, Any]) -> KVBatchMeta:
        self._batch = super().step(metrics, timing_raw)
        return self._batch

    def _balance_batch(self, batch: KVBatchMeta, *args: Any, **kwargs: Any) -> KVBatchMeta:
        """Cut the step into as many updates as the settings say, however many rows it has.

        verl counts in prompts of rollout.n rows each, and fills the last one up with padding.
        """
        num_rows = math.ceil(len(batch) / self._mini_batch_num)
        num_prompts = math.ceil(num_rows / self.config.actor_rollout_ref.rollout.n)
        with open_dict(self.config):
            self.config.actor_rollout_ref.actor.ppo_mini_batch_size = num_prompts
        return super()._balance_batch(batch, *args, **kwargs)

    def _compute_advantage(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        """verl's own corrections and metrics, then our advantages over its."""
        batch = super()._compute_advantage(batch, metrics)
        fields = ["response_mask", "old_log_probs", "rollout_log_probs"]
        rows = tq.kv_batch_get(
            keys=batch.keys, partition_id=batch.partition_id, select_fields=fields
        )
        mask = rows["response_mask"]
        metrics.update(self._training_metrics(rows, len(batch)))
        if self._records_training:
            logprobs = _trained_logprobs(batch, rows)
            ray.get(self._hub.add_logprobs.remote(self.global_steps, logprobs))
        advantage_BT = response_to_nested(_advantages(batch, mask.to_padded_tensor(0)), mask)
        fields = {"advantages": advantage_BT, "returns": advantage_BT.clone()}
        return tq.kv_batch_put(
            keys=batch.keys,
            partition_id=batch.partition_id,
            fields=TensorDict(fields, batch_size=len(batch)),
        )

    def _training_metrics(self, rows: TensorDict, num_rows: int) -> dict[str, float]:
        """What verl does not tell: updates, tokens, and how far sampler and trainer are apart."""
        padded = rows.to_padded_tensor(0.0)
        is_trained_BT = padded["response_mask"].bool()
        gap_N = (padded["old_log_probs"] - padded["rollout_log_probs"])[is_trained_BT].abs()
        mini_batch = self.config.actor_rollout_ref.actor.ppo_mini_batch_size
        num_updates = math.ceil(num_rows / (mini_batch * self.config.actor_rollout_ref.rollout.n))
        return {
            "train/updates": float(num_updates),
            "train/tokens": float(is_trained_BT.sum()),
            "train/logprob_gap_mean": float(gap_N.mean()),
            "train/logprob_gap_max": float(gap_N.max()),
        }

    def _compute_metrics(
        self,
        batch: KVBatchMeta,
        metrics: dict[str, Any],
        timing_raw: dict[str, Any],
        global_steps: int,
        epoch: int,
    ) -> None:
        super()._compute_metrics(batch, metrics, timing_raw, global_steps, epoch)
        ray.get(self._hub.finish_step.remote(global_steps, our_metrics(metrics)))

    def _save_checkpoint(self) -> None:
        self._enter(SAVING)
        super()._save_checkpoint()
        self._saved_step = self.global_steps
        folder = f"{self.config.trainer.default_local_dir}/global_step_{self.global_steps}"
        state = SavedState(
            step=self.global_steps, weights=f"{folder}/actor/huggingface", probes=self._probes()
        )
        ray.get(self._hub.saved.remote(state))

    def _probes(self) -> tuple[Probe, ...]:
        """What the policy, as it was saved, thinks of the shortest sequences of its last batch."""
        batch = self._batch
        if batch is None:
            return ()
        temperature = self.config.actor_rollout_ref.rollout.temperature
        batch.extra_info.update(
            calculate_entropy=False, compute_loss=False, temperature=temperature
        )
        self.actor_rollout_wg.compute_log_prob(batch)
        rows = sorted(
            (tag["seq_len"], key)
            for key, tag in zip(batch.keys, batch.tags, strict=True)
            if not tag.get("is_padding", False)
        )
        return tuple(self._probe(batch, key, temperature) for _, key in rows[:_NUM_PROBES])

    def _probe(self, batch: KVBatchMeta, key: str, temperature: float) -> Probe:
        fields = ["prompts", "responses", "response_mask", "log_probs"]
        row = tq.kv_batch_get(keys=[key], partition_id=batch.partition_id, select_fields=fields)
        logprobs = response_from_nested(row["log_probs"], row["response_mask"])
        prompt, response = row["prompts"][0].tolist(), row["responses"][0].tolist()
        return Probe(
            ids=(*prompt, *response),
            first=len(prompt),
            logprobs=tuple(logprobs[0].tolist()),
            temperature=temperature,
        )

    def _enter(self, phase: str, *, total: int | None = None, at_step: bool = True) -> None:
        step = self.global_steps if at_step else None
        ray.get(self._hub.enter.remote(phase, step=step, total=total))


def _advantages(batch: KVBatchMeta, mask_BT: torch.Tensor) -> torch.Tensor:
    """[B, T] of each trained token, in the loss's weight of its row; 0.0 elsewhere."""
    is_trained_BT = mask_BT.bool()
    # A row that verl fills a batch up with trains nothing, and has the tags of another.
    runs = [
        (num_tokens, advantage * tag[WEIGHT])
        for tag, is_real in zip(batch.tags, is_trained_BT.any(dim=1).tolist(), strict=True)
        if is_real
        for num_tokens, advantage in tag[ADVANTAGES]
    ]
    num_tokens, values = zip(*runs, strict=True)
    advantage_BT = torch.zeros(mask_BT.shape)
    advantage_BT[is_trained_BT] = torch.tensor(values).repeat_interleave(torch.tensor(num_tokens))
    return advantage_BT


def _trained_logprobs(batch: KVBatchMeta, rows: TensorDict) -> dict[str, list[float]]:
    """By row, those of its trained tokens before the first update of the step."""
    padded = rows.to_padded_tensor(0.0)
    is_trained_BT, logprob_BT = padded["response_mask"].bool(), padded["old_log_probs"]
    return {
        key: logprob_BT[index][is_trained_BT[index]].tolist()
        for index, (key, tag) in enumerate(zip(batch.keys, batch.tags, strict=True))
        if not tag.get("is_padding", False)
    }
