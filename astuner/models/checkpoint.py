"""Checkpoints: folders that transformers loads, with all that a run needs to go on exactly.

    step_20/
      config.json, *.safetensors, tokenizer …   what transformers loads
      training_state.safetensors                float32 masters and moments of the optimizer
      astuner.json                              where the run stood, and with which settings
      manifest.json                             size and SHA-256 of every file; written last

How such a folder appears whole is in `whole_folder.py`.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from astuner.models.adapter import MERGED_NAME, has_adapter, save_merged
from astuner.models.whole_folder import new_folder
from astuner.errors import BackboneError

RECORD_NAME = "astuner.json"
STATE_NAME = "training_state.safetensors"
MANIFEST_NAME = "manifest.json"


def save_checkpoint(
    folder: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    record: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    is_merged_too: bool = False,
) -> None:
    """Write weights in the model's dtype, tokenizer with chat template, `tensors` and `record`.

    Of a model with an adapter, the adapter is written, as peft reads it; with `is_merged_too` also
    a plain model into `merged`. `record` must be JSON-able. Raises BackboneError when the folder
    exists already or cannot be written; nothing of it is left then.
    """
    with new_folder(folder, num_bytes=num_checkpoint_bytes(model, tensors)) as partial:
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        if is_merged_too and has_adapter(model):
            save_merged(partial / MERGED_NAME, model)
            tokenizer.save_pretrained(partial / MERGED_NAME)
        save_file({name: t.contiguous() for name, t in tensors.items()}, partial / STATE_NAME)
        _write_json(partial / RECORD_NAME, record)
        _write_json(partial / MANIFEST_NAME, _manifest(partial))


def num_checkpoint_bytes(model: PreTrainedModel, tensors: Mapping[str, Tensor]) -> int:
    """About what one checkpoint takes on the disk."""
    saved = [p for p in model.parameters() if p.requires_grad or not has_adapter(model)]
    held = [*saved, *tensors.values()]
    return sum(tensor.numel() * tensor.element_size() for tensor in held)


def read_record(folder: Path) -> dict[str, Any]:
    """What was saved as `record`, once every file is what it was when it was written.

    Raises BackboneError with the reason for a folder that is torn, changed or not of astuner.
    """
    manifest_file = folder / MANIFEST_NAME
    if not manifest_file.is_file() or not (folder / RECORD_NAME).is_file():
        raise BackboneError(f"{folder} is not a checkpoint of astuner: it has no {MANIFEST_NAME}")
    try:
        for name, entry in _read_manifest(manifest_file).items():
            if not (folder / name).is_file():
                raise BackboneError(f"{folder} is damaged: {name} is missing")
            if _entry(folder / name) != entry:
                raise BackboneError(f"{folder} is damaged: {name} is not as it was written")
        record = _read_object(folder / RECORD_NAME)
    except (OSError, ValueError, RecursionError) as error:
        raise BackboneError(f"{folder} is damaged: {error}") from error
    return record


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """What was saved as `tensors`, on the CPU."""
    return load_file(folder / STATE_NAME)


def _manifest(folder: Path) -> dict[str, Any]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): _entry(path) for path in files}


def _read_manifest(path: Path) -> dict[str, Any]:
    """Raises ValueError, as `_read_object` does, for one without what every checkpoint holds."""
    manifest = _read_object(path)
    for name in (RECORD_NAME, STATE_NAME):
        if name not in manifest:
            raise ValueError(f"{path.name} does not list {name}")
    return manifest


def _read_object(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} holds {type(content).__name__}, expected an object")
    return content


def _entry(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    return {"bytes": path.stat().st_size, "sha256": digest.hexdigest()}


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
