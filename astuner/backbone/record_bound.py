"""Holds the records of a run below a size: deletes the oldest ones of training.

What is put aside goes first, since those steps were done again. Validations, metrics and the newest
steps stay whatever they take; checkpoints other than those put aside are not records.
"""

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

from astuner.run_dir import RunDir

logger = logging.getLogger(__name__)

NUM_STEPS_KEPT = 8
"""Trinity proves a checkpoint by records of its step, while its explorer is some steps ahead."""


class RecordBound:
    """The bound of one run. Used by one thread."""

    def __init__(self, run_dir: RunDir, max_bytes: int) -> None:
        self._run_dir, self._max_bytes = run_dir, max_bytes
        self._has_told = False

    def apply(self) -> None:
        """Delete until the rest is within the bound; a file that refuses is told and stays."""
        excess = records_bytes(self._run_dir) - self._max_bytes
        for path in _droppable(self._run_dir):
            if excess <= 0:
                return
            num_bytes = size_of(path)
            try:
                _delete(path)
            except OSError as error:
                logger.warning("record not deleted file=%s: %s", path, error.strerror)
                continue
            excess -= num_bytes
            self._tell(path)

    def _tell(self, path: Path) -> None:
        if not self._has_told:
            self._has_told = True
            logger.info(
                "records take more than trainer_common.max_records_mb=%g: the oldest ones of "
                "training are deleted from now on, first=%s",
                *(self._max_bytes / 1e6, path.relative_to(self._run_dir.root)),
            )


def records_bytes(run_dir: RunDir) -> int:
    """What episodes/, training/ and set_aside/ take."""
    return sum(map(size_of, record_dirs(run_dir)))


def record_dirs(run_dir: RunDir) -> tuple[Path, ...]:
    """Where the records of a run lie."""
    return run_dir.episodes_dir, run_dir.training_dir, run_dir.set_aside_dir


def size_of(path: Path) -> int:
    """Of a file, or of all files in a folder; what vanishes meanwhile counts nothing."""
    total = 0
    for file in [path, *path.rglob("*")]:
        try:
            total += file.lstat().st_size if file.is_symlink() or file.is_file() else 0
        except OSError:
            continue
    return total


def _droppable(run_dir: RunDir) -> Iterator[Path]:
    """The oldest first."""
    for away in sorted(run_dir.set_aside_dir.glob("*")):
        yield from sorted(away.glob("checkpoints/step_*"))
        yield from sorted(away.glob("episodes/step_*.jsonl"))
        yield from sorted(away.glob("training/step_*.jsonl"))
    for episodes in run_dir.step_files()[:-NUM_STEPS_KEPT]:
        yield episodes
        training = run_dir.training_dir / episodes.name
        if training.exists():
            yield training


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
