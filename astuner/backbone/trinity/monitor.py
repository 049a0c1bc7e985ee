"""The monitor that brings Trinity's metrics to the hub; the command decides who shows them."""

# Trinity-RFT and Ray are installed in a virtual environment of their own:
# pyright: reportMissingImports=false

import logging
import os
import sys
import time
from typing import Any

from trinity.utils.log import get_logger
from trinity.utils.monitor import Monitor

from astuner.backbone.cluster.messages import SavedState
from astuner.backbone.cluster.remote import find_hub
from astuner.backbone.trinity.metrics import our_metrics, theirs

_SAVED = "time/save_checkpoint"
_VALIDATED = "eval/"
_EXPLORER_ERROR = "Error in Explorer"
"""How Trinity logs the error that ends its explorer."""


class HubMonitor(Monitor):
    """One in the explorer and one in the trainer; nobody waits for the hub."""

    def __init__(self, project: str, group: str, name: str, role: str, config: Any = None) -> None:
        super().__init__(project, name, role, config)
        self._hub = find_hub()
        self._is_trainer = role == config.trainer.name
        self._logged_at: float | None = None
        self._saved: SavedState | None = None
        if not self._is_trainer:
            get_logger().addHandler(_EndOfExplorer())

    def log(self, data: dict[str, Any], step: int, commit: bool = False) -> None:
        if self._is_trainer:
            self._finish_step(data, step)
        elif any(key.startswith(_VALIDATED) for key in data):
            self._hub.finish_validation.remote(step)
        else:
            self._hub.add_metrics.remote(step, theirs(data))

    def _finish_step(self, data: dict[str, Any], step: int) -> None:
        now, before = time.monotonic(), self._logged_at
        seconds, self._logged_at = None if before is None else now - before, now
        self._hub.finish_step.remote(step, {**our_metrics(data), "step/seconds": seconds})
        if self._saved is not None:
            self._hub.saved.remote(self._saved)
            self._saved = None
        if _SAVED in data:
            # Told once the trainer is past it: at its end it writes its last state once more.
            folder = weights_folder(self.config.checkpoint_job_dir, step)
            self._saved = SavedState(step=step, weights=folder, probes=())

    def close(self) -> None:
        """Nothing is held open."""


class _EndOfExplorer(logging.Handler):
    """Has the explorer die of the error that ends it, behind the handlers that write it down.

    Trinity's launcher takes its return for a good end, and would wait an hour for the trainer.
    """

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.ERROR and record.getMessage().startswith(_EXPLORER_ERROR):
            sys.stdout.flush()
            os._exit(1)


def weights_folder(job_dir: str, step: int) -> str:
    """Where Trinity's trainer writes the weights of a step in Hugging Face format."""
    return f"{job_dir}/global_step_{step}/actor/huggingface"
