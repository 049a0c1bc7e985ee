"""Checkpoints: folders that transformers loads, each written whole or not at all.

A checkpoint grows under a temporary name beside its place and is renamed when every byte is on the
disk. A kill leaves at most a folder that starts with a dot and ends in `.partial`.
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from astuner.errors import BackboneError

RECORD_NAME = "astuner.json"
"""What of `extra` a checkpoint holds, beside the files of transformers."""


def save_checkpoint(
    folder: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    extra: dict[str, Any],
) -> None:
    """Write weights in the model's dtype, both configs, tokenizer, chat template and `extra`.

    `extra` must be JSON-able. Raises BackboneError when the folder exists already or cannot be
    written; nothing of it is left then.
    """
    num_bytes = sum(p.numel() * p.element_size() for p in model.parameters())
    with new_folder(folder, num_bytes=num_bytes) as partial:
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        (partial / RECORD_NAME).write_text(json.dumps(extra, indent=2) + "\n", encoding="utf-8")


@contextmanager
def new_folder(folder: Path, *, num_bytes: int) -> Iterator[Path]:
    """Give a folder to write in that becomes `folder` when the body ends, and vanishes if it fails.

    `num_bytes` is about what the body writes, for the message. Raises BackboneError for whatever
    the file system refuses.
    """
    if folder.exists():
        raise BackboneError(
            f"saving a checkpoint failed: {folder} exists already and is not overwritten; "
            "move it away or start a new run"
        )
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    try:
        partial.mkdir(parents=True)
        yield partial
        _sync_tree(partial)
        partial.rename(folder)
        _sync(folder.parent)
    except (OSError, SafetensorError) as error:
        raise BackboneError(_failure(folder, num_bytes, error)) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _sync_tree(folder: Path) -> None:
    for path in sorted(folder.rglob("*")):
        _sync(path)
    _sync(folder)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _failure(folder: Path, num_bytes: int, error: Exception) -> str:
    existing = next(parent for parent in folder.absolute().parents if parent.is_dir())
    free = shutil.disk_usage(existing).free
    return (
        f"saving a checkpoint failed: {folder}: {error}; it needs about {_megabytes(num_bytes)}, "
        f"and {_megabytes(free)} are free on that disk. Checkpoints saved before are untouched. "
        "Free some space or give another folder, then continue from the last one"
    )


def _megabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:,.1f} MB"
