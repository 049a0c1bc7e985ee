"""Checkpoints: folders that transformers loads, with all that a run needs to go on exactly.

    step_20/
      config.json, *.safetensors, tokenizer …   what transformers loads
      training_state.safetensors                float32 masters and moments of the optimizer
      astuner.json                              where the run stood, and with which settings
      manifest.json                             size and SHA-256 of every file; written last

How such a folder appears whole is in `whole_folder.py`, what its list says in `manifest.py`.
"""

from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from astuner.errors import BackboneError
from astuner.models.adapter import MERGED_NAME, has_adapter, read_adapter, save_merged
from astuner.models.manifest import (
    MANIFEST_NAME,
    RECORD_NAME,
    STATE_NAME,
    file_entry,
    is_checkpoint,
    read_manifest,
    read_object,
    write_json,
    write_manifest,
)
from astuner.models.whole_folder import new_folder


def save_checkpoint(
    folder: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    record: Mapping[str, Any],
    tensors: Mapping[str, Tensor] | None,
    is_merged_too: bool = False,
) -> None:
    """Write weights in the model's dtype, tokenizer with chat template, `tensors` and `record`.

    None for `tensors` leaves the training state out.
    Of a model with an adapter, the adapter is written, as peft reads it; with `is_merged_too` also
    a plain model into `merged`. `record` must be JSON-able. Raises BackboneError when the folder
    exists already or cannot be written; nothing of it is left then.
    """
    num_bytes = num_weights_bytes(model, is_merged_too=is_merged_too)
    num_bytes += sum(tensor.nbytes for tensor in (tensors or {}).values())
    with new_folder(folder, num_bytes=num_bytes) as partial:
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        if is_merged_too and has_adapter(model):
            save_merged(partial / MERGED_NAME, model)
            tokenizer.save_pretrained(partial / MERGED_NAME)
        if tensors is not None:
            save_file({name: t.contiguous() for name, t in tensors.items()}, partial / STATE_NAME)
        write_json(partial / RECORD_NAME, record)
        write_manifest(partial)


def num_weights_bytes(model: PreTrainedModel, *, is_merged_too: bool) -> int:
    """About what a checkpoint without its training state takes on the disk."""
    everything = list(model.parameters())
    saved = [p for p in everything if p.requires_grad] if has_adapter(model) else everything
    merged = everything if is_merged_too and has_adapter(model) else []
    return sum(parameter.nbytes for parameter in (*saved, *merged))


def num_state_bytes(model: PreTrainedModel) -> int:
    """The same of its training state: a master and two moments in float32 of each trained weight."""
    return 12 * sum(p.numel() for p in model.parameters() if p.requires_grad)


def read_record(folder: Path, *, unread: Container[str] = ()) -> dict[str, Any]:
    """What was saved as `record`, once every file is what it was when it was written.

    Files named in `unread`, such as a training state that is not needed, are not looked at. Raises
    BackboneError with the reason for a folder that is torn, changed or not of astuner.
    """
    if not is_checkpoint(folder):
        raise BackboneError(f"{folder} is not a checkpoint of astuner: it has no {MANIFEST_NAME}")
    try:
        for name, entry in read_manifest(folder / MANIFEST_NAME).items():
            if name in unread or (name == STATE_NAME and entry is None):
                continue
            if not (folder / name).is_file():
                raise BackboneError(f"{folder} is damaged: {name} is missing")
            if file_entry(folder / name) != entry:
                raise BackboneError(f"{folder} is damaged: {name} is not as it was written")
        record = read_object(folder / RECORD_NAME)
    except (OSError, ValueError, RecursionError) as error:
        raise BackboneError(f"{folder} is damaged: {error}") from error
    return record


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """What was saved as `tensors`, on the CPU."""
    return load_file(folder / STATE_NAME)


def read_masters(folder: Path, model: PreTrainedModel) -> dict[str, Tensor]:
    """In place of `tensors` that were left out: the trained weights alone, in the saved dtype.

    `model` has those of the checkpoint, or its adapter is made anew.
    """
    weights = read_adapter(folder) if has_adapter(model) else dict(model.named_parameters())
    return {f"master/{name}": weight for name, weight in weights.items()}
