"""Lets evaluations in one folder of runs start one after the other: of two equal ones that begin
together, the second has to find the first."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from astuner.errors import ConfigError

_MAX_SECONDS = 60.0
"""User code that is imported, as torch in a workflow, takes most of a start."""
_AGAIN_SECONDS = 0.05


@contextmanager
def sole_start(folder: Path, *, max_seconds: float = _MAX_SECONDS) -> Iterator[None]:
    """Keep other evaluations in `folder`, that of all runs, from starting; wait for one that does.

    A kill ends that too. Raises ConfigError where the other one takes longer than `max_seconds`,
    and where the folder cannot be had.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise ConfigError(
            f"the folder of runs {folder} cannot be had: {error.strerror}; give another by "
            "--exp-dir or astuner.experiment_dir"
        ) from error
    try:
        _wait_for(handle, folder, time.monotonic() + max_seconds)
        yield
    finally:
        os.close(handle)


def _wait_for(handle: int, folder: Path, deadline: float) -> None:
    while True:
        with suppress(BlockingIOError):
            return fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if time.monotonic() > deadline:
            raise ConfigError(
                f"evaluate: another evaluation in {folder} is starting, and does not get on with "
                "it; end it, or evaluate beside it with --again"
            )
        time.sleep(_AGAIN_SECONDS)
