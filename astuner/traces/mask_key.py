"""The key of a folder with traces, by which masked users and sessions can be told apart.

It stands beside them, for their owner only: whoever has the folder could try out names, and nobody
who is sent a file of it can.
"""

import os
import secrets
from contextlib import suppress
from pathlib import Path

from astuner.run_dir import naming_the_file

_NAME = ".mask_key"
_NUM_BYTES = 32


def mask_key(folder: Path) -> bytes:
    """The folder's own, made where there is none. Raises AstunerError where it cannot be."""
    path = folder / _NAME
    with naming_the_file(path):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            if len(key := path.read_bytes()) == _NUM_BYTES:
                return key
        return _made(path)


def _made(path: Path) -> bytes:
    """Whole or not at all; of two processes at once, both have that of the first."""
    partial = path.with_name(f"{_NAME}.{os.getpid()}.partial")
    partial.unlink(missing_ok=True)
    partial.touch(mode=0o600)
    partial.write_bytes(secrets.token_bytes(_NUM_BYTES))
    try:
        os.link(partial, path)
    except FileExistsError:
        if len(path.read_bytes()) != _NUM_BYTES:  # torn by a kill, of an earlier release
            partial.replace(path)
    partial.unlink(missing_ok=True)
    return path.read_bytes()
