"""The list of a checkpoint's files, by which it is seen to be whole, and what may be left out of it.

    manifest.json      {"model.safetensors": {"bytes": …, "sha256": …}, …}

Knows files only, so that a checkpoint can be pruned where no torch is installed.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

RECORD_NAME = "astuner.json"
STATE_NAME = "training_state.safetensors"
MANIFEST_NAME = "manifest.json"


def write_manifest(folder: Path) -> None:
    """List every file of the folder; a training state that is not there is listed as null."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    entries = {path.relative_to(folder).as_posix(): file_entry(path) for path in files}
    write_json(folder / MANIFEST_NAME, {STATE_NAME: None} | entries)


def read_manifest(path: Path) -> dict[str, Any]:
    """Raises ValueError, as `read_object` does, for one without what every checkpoint holds."""
    manifest = read_object(path)
    for name in (RECORD_NAME, STATE_NAME):
        if name not in manifest:
            raise ValueError(f"{path.name} does not list {name}")
    return manifest


def is_checkpoint(folder: Path) -> bool:
    """Whether astuner wrote it; not whether it is whole."""
    return (folder / MANIFEST_NAME).is_file() and (folder / RECORD_NAME).is_file()


def has_training_state(folder: Path) -> bool:
    """Whether a checkpoint that is whole holds what an exact continuation needs."""
    return read_manifest(folder / MANIFEST_NAME)[STATE_NAME] is not None


def drop_training_state(folder: Path) -> None:
    """Leave a checkpoint with its weights only. A kill on the way leaves it whole, with or without.

    Raises OSError, or ValueError where the manifest is damaged.
    """
    manifest = read_manifest(folder / MANIFEST_NAME)
    if manifest[STATE_NAME] is not None:
        partial = folder / f".{MANIFEST_NAME}.partial"
        try:
            write_json(partial, manifest | {STATE_NAME: None})
            sync(partial)
            partial.replace(folder / MANIFEST_NAME)
        finally:
            partial.unlink(missing_ok=True)
        sync(folder)
    (folder / STATE_NAME).unlink(missing_ok=True)


def read_object(path: Path) -> dict[str, Any]:
    """Raises ValueError, OSError or RecursionError for a file that holds no JSON object."""
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} holds {type(content).__name__}, expected an object")
    return content


def file_entry(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    return {"bytes": path.stat().st_size, "sha256": digest.hexdigest()}


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def sync(path: Path) -> None:
    """Wait until the disk has the file, or the names in the folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
