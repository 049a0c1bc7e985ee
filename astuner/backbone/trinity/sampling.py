"""What Trinity's trainer reads for one of its steps: all that one step of the explorer gave."""

# Trinity-RFT and Ray are installed in a virtual environment of their own:
# pyright: reportMissingImports=false

from typing import Any

from trinity.algorithm.sample_strategy.sample_strategy import SampleStrategy
from trinity.buffer import get_buffer_reader
from trinity.common.config import BufferConfig
from trinity.common.experience import Experience

from astuner.backbone.cluster.remote import find_hub
from astuner.backbone.trinity.experiences import BATCH_SIZE, STEP


class WholeStep(SampleStrategy):
    """Reads whole steps, however many samples they have, and ends when the command asks for it."""

    def __init__(self, buffer_config: BufferConfig, **_options: Any) -> None:
        super().__init__(buffer_config)
        buffer = buffer_config.trainer_input.experience_buffer
        assert buffer is not None  # Trinity makes one where none is named
        self._buffer = get_buffer_reader(buffer)
        self._update_size = buffer_config.train_batch_size
        self._hub = find_hub()

    async def sample(
        self, step: int, **_options: Any
    ) -> tuple[list[Experience], dict[str, float], list[Any]]:
        """Raises StopAsyncIteration where no further step is to be trained."""
        if await self._hub.is_stop_requested.remote():
            raise StopAsyncIteration
        batch = await self._buffer.read(batch_size=1)
        rest = batch[0].info[BATCH_SIZE] - 1
        if rest:
            batch += await self._buffer.read(batch_size=rest)
        await self._hub.enter.remote("update", step=batch[0].info[STEP])
        metrics = self._metrics(batch)
        self.set_model_version_metric(batch, metrics)
        return batch, metrics, []

    def _metrics(self, batch: list[Experience]) -> dict[str, float]:
        trained = [int(e.action_mask.sum()) for e in batch if e.action_mask is not None]
        return {
            "train/samples": float(sum(num_tokens > 0 for num_tokens in trained)),
            "train/tokens": float(sum(trained)),
            "train/updates": float(len(batch) // self._update_size),
        }

    @classmethod
    def default_args(cls) -> dict[str, Any]:
        return {}

    def state_dict(self) -> dict[str, Any]:
        return self._buffer.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if state_dict:
            self._buffer.load_state_dict(state_dict)
