"""Trinity's explorer and trainer, with validations of the weights that a checkpoint has.

Trinity's own explorer validates after step N with the weights before its update, beside the rollout
of the step, and its launcher ends the explorer behind the last update. The best of the checkpoints
would be chosen by what others did.
"""

# Trinity-RFT and Ray are installed in a virtual environment of their own:
# pyright: reportMissingImports=false

import asyncio
from contextlib import suppress

import ray
from ray.exceptions import RayActorError
from trinity.common.config import Config
from trinity.common.constants import SyncMethod, SyncStyle
from trinity.explorer import explorer as their_explorer
from trinity.trainer import trainer as their_trainer

from astuner.backbone.cluster.remote import find_hub
from astuner.backbone.trinity.known_weights import wait_until_known
from astuner.backbone.trinity.reader import VALIDATION
from astuner.backbone.validation import is_validation_due


class Explorer(their_explorer.Explorer):
    """Validates once it has new weights, and names the validation by their version."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._is_explored = asyncio.Event()

    def need_eval(self) -> bool:
        """Beside a rollout only where the weights come whenever they are there."""
        return self.sync_style == SyncStyle.FULLY_ASYNC and super().need_eval()

    async def sync_weight(self) -> None:
        before = self.model_version
        await super().sync_weight()
        if is_validation_due(before, self.model_version, self.config.explorer.eval_interval):
            await self._validate()

    async def _validate(self) -> None:
        """Trinity names a validation by the step that it is at."""
        sets, hub = self.config.buffer.explorer_input.eval_tasksets, find_hub()
        if not sets or await hub.is_stop_requested.remote():
            return
        version = self.model_version
        total = len(await hub.tasks.remote(VALIDATION)) * sets[0].repeat_times
        await hub.enter.remote("validation", step=version, total=total)
        explored, self.explore_step_num = self.explore_step_num, version
        try:
            await self.eval()
            await self._finish_eval_step()
        finally:
            self.explore_step_num = explored

    async def explore(self) -> str:
        try:
            return await super().explore()
        finally:
            self._is_explored.set()

    async def wait_until_explored(self) -> None:
        """Until nothing is left to roll out or to validate."""
        await self._is_explored.wait()


class Trainer(their_trainer.Trainer):
    """Behind its last step it waits for the validation: its end is that of the explorer."""

    async def save_checkpoint(
        self, block_until_saved: bool = False, save_as_hf: bool = False
    ) -> dict[str, float]:
        metrics = await super().save_checkpoint(block_until_saved, save_as_hf)
        if block_until_saved and self.sync_method == SyncMethod.CHECKPOINT:
            latest = self.synchronizer.get_latest_model_version.remote
            if not await wait_until_known(self.train_step_num, latest):
                self.logger.warning("The weights of the last step are not validated: unknown.")
        return metrics

    async def train(self) -> str:
        name = await super().train()
        if self.train_step_num >= self.total_steps:
            # One that died is told of by the launcher.
            with suppress(ValueError, RayActorError):
                namespace = self.config.ray_namespace
                explorer = ray.get_actor(self.config.explorer.name, namespace=namespace)
                await explorer.wait_until_explored.remote()
        return name


def use_in_launcher() -> None:
    """Have Trinity's launcher, which looks both up by name, start these two."""
    their_explorer.Explorer = Explorer
    their_trainer.Trainer = Trainer
