"""A folder that traces are written to, or what is made of them: that it can be, and by one."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from astuner.errors import ConfigError
from astuner.machine.os_errors import advice, told
from astuner.run_dir import naming_the_file


def check_writable(folder: Path, *, setting: str) -> None:
    """That files can be made there, before anything comes that is to be kept.

    Raises ConfigError, which begins with the setting.
    """
    probe = folder / ".writable"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        probe.touch(mode=0o600)
        probe.unlink()
    except OSError as error:
        raise ConfigError(
            f"{setting} {folder}: nothing can be written there: {told(error, folder=folder)}; "
            f"{advice(error.errno)}"
        ) from error


@contextmanager
def used_by_one(lock: Path, *, taken: str) -> Iterator[None]:
    """Around work in the folder of `lock`, which is made. A kill gives it free.

    Raises ConfigError with the text `taken` where another process is at it, AstunerError for what
    the file system refuses.
    """
    with naming_the_file(lock):
        lock.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(taken) from None
        yield
    finally:
        os.close(file)
