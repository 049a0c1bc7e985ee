"""Our verl trainer, writing down what each update is made from. Registered as `astuner_recording`.

`verl_cpu.py` imports it behind the trainer itself, in the process that looks trainers up.
"""

import json
import os
from pathlib import Path
from typing import Any

import transfer_queue as tq
from verl.trainer.ppo.v1.trainer_base import register_trainer

from astuner.backbone.verl.trainer import EpisodeTrainer
from tests.ray.names import FILE_VARIABLE, TRAINER

_ROW = ("prompts", "responses", "response_mask", "rollout_log_probs", "advantages")
_SCORES = ("old_log_probs", "ref_log_prob")


@register_trainer(TRAINER)
class RecordingTrainer(EpisodeTrainer):
    def _update_actor(self, batch: Any, metrics: dict[str, Any]) -> Any:
        is_real = [not tag.get("is_padding", False) for tag in batch.tags]
        keys = [key for key, real in zip(batch.keys, is_real, strict=True) if real]
        data = tq.kv_batch_get(
            keys=keys, partition_id=batch.partition_id, select_fields=[*_ROW, *_SCORES]
        )
        with Path(os.environ[FILE_VARIABLE]).open("a") as file:
            for index, key in enumerate(keys):
                fields = {n: data[n][index].tolist() for n in (*_ROW, *_SCORES) if n in data}
                file.write(json.dumps({"step": self.global_steps, "key": key, **fields}) + "\n")
        return super()._update_actor(batch, metrics)
