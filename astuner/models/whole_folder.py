"""Folders that appear whole or not at all, and go at once.

What is being written or deleted lies under a temporary name beside its place: a kill leaves at most
a folder that starts with a dot and ends in `.partial`, and where one is kept an empty `.lock`.
"""

import errno
import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from astuner.errors import BackboneError, ConfigError
from astuner.machine.os_errors import advice
from astuner.models.manifest import sync


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderWords:
    """What messages call the making of a folder, and what they advise."""

    work: str
    instead: str
    """Of a folder that is there already: what to do in place of moving it away."""
    elsewhere: str
    """How to name another disk."""
    go_on: str
    """Behind the cause being mended."""


_CHECKPOINT = FolderWords(
    work="saving a checkpoint",
    elsewhere="give another folder by --exp-dir or astuner.experiment_dir",
    instead="start a new run",
    go_on="continue from the last checkpoint; those saved before are untouched",
)


@contextmanager
def new_folder(folder: Path, *, num_bytes: int, words: FolderWords = _CHECKPOINT) -> Iterator[Path]:
    """Give a folder to write in that becomes `folder` when the body ends, and vanishes if it fails.

    `num_bytes` is about what the body writes, for the message. Raises BackboneError for whatever
    the file system refuses.
    """
    if folder.exists():
        raise BackboneError(
            f"{words.work} failed: {folder} exists already and is not overwritten; "
            f"move it away or {words.instead}"
        )
    partial = _partial(folder)
    try:
        partial.mkdir(parents=True)
        yield partial
        _follow_umask(partial)
        _sync_tree(partial)
        partial.rename(folder)
        sync(folder.parent)
    except Exception as error:  # the tokenizers library raises just that
        if not _is_refusal(error):
            raise
        raise BackboneError(_failure(folder, num_bytes, error, words)) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def sole_maker(folder: Path, *, words: FolderWords) -> Iterator[None]:
    """Keep other processes from making `folder`, and delete what kills left of it.

    A lock tells, and no process id: another program may have that of one that was killed. Raises
    ConfigError where another process is at it, BackboneError for what the file system refuses.
    """
    lock = folder.with_name(f".{folder.name}.lock")
    made = [parent for parent in folder.parents if not parent.exists()]
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise BackboneError(_failure(folder, None, error, words)) from error
    try:
        if not _is_taken(handle, lock):
            raise ConfigError(
                f"{words.work}: another process is making {folder}; wait for it or end it, or "
                f"{words.instead}"
            )
        try:
            _remove_partials(folder)
            yield
        finally:
            lock.unlink(missing_ok=True)
    finally:
        os.close(handle)
        for parent in made:
            with suppress(OSError):  # it holds what was made
                parent.rmdir()


def _is_taken(handle: int, lock: Path) -> bool:
    """Whether the lock is ours now, and the file not one that its last owner just deleted."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(handle), lock.stat())
    except (BlockingIOError, FileNotFoundError):
        return False


def _remove_partials(folder: Path) -> None:
    ours = re.compile(rf"\.{re.escape(folder.name)}\.\d+\.partial")
    for path in folder.parent.iterdir():
        if ours.fullmatch(path.name):
            shutil.rmtree(path, ignore_errors=True)


def remove_folder(folder: Path) -> None:
    """Delete a folder, which is gone from its place at once."""
    doomed = _partial(folder)
    folder.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Delete what kills left of checkpoints in this folder. Nobody else may be saving there."""
    for kind in ("step_*", "warm_start.*"):
        for partial in folder.glob(f".{kind}.partial"):
            shutil.rmtree(partial, ignore_errors=True)


def check_room(folder: Path, num_bytes: int, words: FolderWords = _CHECKPOINT) -> None:
    """Raise BackboneError unless the disk of `folder` has room for so much."""
    free = shutil.disk_usage(_existing(folder)).free
    if free < num_bytes:
        raise BackboneError(
            f"{words.work} will not fit into {folder}: it needs about {_megabytes(num_bytes)}, and "
            f"{_megabytes(free)} are free on that disk. Free some space, or {words.elsewhere}"
        )


def _partial(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.{os.getpid()}.partial")


def _follow_umask(folder: Path) -> None:
    """Give its files the rights that the umask left the folder: safetensors makes them 0600."""
    rights = folder.stat().st_mode & 0o666
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(rights)


def _sync_tree(folder: Path) -> None:
    for path in sorted(folder.rglob("*")):
        sync(path)
    sync(folder)


def _is_refusal(error: Exception) -> bool:
    """Whether it says that the file system refused, or that a file of weights is none."""
    is_of_weights = type(error).__name__ == "SafetensorError"
    return isinstance(error, OSError) or is_of_weights or _os_error_number(error) is not None


def _os_error_number(error: Exception) -> int | None:
    """safetensors and tokenizers are written in Rust, and have the number in their text only;
    ndarray.tofile, by which GGUF files are written, has none for a disk that takes no more."""
    if isinstance(error, OSError):
        is_cut = re.fullmatch(r"\d+ requested and \d+ written", str(error))
        return errno.ENOSPC if is_cut else error.errno
    found = re.search(r"\(os error (\d+)\)", str(error))
    return int(found[1]) if found else None


def _failure(folder: Path, num_bytes: int | None, error: Exception, words: FolderWords) -> str:
    """`num_bytes` None: nobody knows yet how much it takes."""
    free = shutil.disk_usage(_existing(folder)).free
    needed = "" if num_bytes is None else f"it needs about {_megabytes(num_bytes)}, and "
    number = _os_error_number(error)
    is_full = number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    to_do = "free some space or give another folder" if is_full else advice(number)
    return (
        f"{words.work} failed: {folder}: {error}; {needed}{_megabytes(free)} are free on that "
        "disk. "
        f"{to_do[0].upper()}{to_do[1:]}, then {words.go_on}"
    )


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.absolute().parents) if path.is_dir())


def _megabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:,.1f} MB"
