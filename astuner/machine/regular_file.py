"""Opens files that others put in place: they may be anything by the time that they are opened."""

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO


def open_regular(path: Path, *, buffering: int = -1) -> BinaryIO:
    """The file, opened for reading.

    Raises OSError for a folder, a device and a pipe, which would be waited for without end.
    """
    # The caller closes it.
    file = open(path, "rb", buffering=buffering, opener=_open_at_once)  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "it is no regular file", os.fspath(path))
    return file


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)
