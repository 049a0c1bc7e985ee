"""What tells the weights of a folder from others under the same name, without reading them."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from astuner.models.manifest import (
    MANIFEST_NAME,
    RECORD_NAME,
    STATE_NAME,
    is_checkpoint,
    read_manifest,
)

_ADAPTER_CONFIG = "adapter_config.json"


def weights_digest(folder: Path) -> str:
    """Of all files that decide what the model says; of an adapter, those of its base too.

    A checkpoint of ours lists the checksums of its files, and a training state that is left out
    later changes none of these; of other folders names, sizes and times count.
    """
    digest = hashlib.sha256()
    for entry in _entries(folder):
        digest.update(f"{entry}\n".encode())
    return digest.hexdigest()


def _entries(folder: Path) -> Iterator[str]:
    try:
        yield from _listed(folder) if is_checkpoint(folder) else _seen(folder)
    except (OSError, ValueError, RecursionError):  # loading says what is wrong with it
        yield "unreadable"
    base = _base_of_adapter(folder)
    if base is not None:
        yield f"base {base}"
        if base.is_dir():
            yield from _seen(base)


def _listed(folder: Path) -> Iterator[str]:
    for name, entry in sorted(read_manifest(folder / MANIFEST_NAME).items()):
        if name not in (STATE_NAME, RECORD_NAME):
            yield f"{name} {entry['sha256']}"


def _seen(folder: Path) -> Iterator[str]:
    for path in sorted(folder.iterdir()):
        if path.is_file():
            known = path.stat()
            yield f"{path.name} {known.st_size} {known.st_mtime_ns}"


def _base_of_adapter(folder: Path) -> Path | None:
    try:
        config = json.loads((folder / _ADAPTER_CONFIG).read_text(encoding="utf-8"))
        return Path(config["base_model_name_or_path"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
