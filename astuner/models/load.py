"""Loads the policy: a causal language model and its tokenizer, from a folder or the hub.

The model is a plain transformers module, which generates and trains with the same storage.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from astuner.errors import BackboneError, ConfigError
from astuner.models.adapter import ADAPTER_CONFIG_NAME, load_merged
from astuner.models.device import DtypeName, choose_device, choose_dtype, warn_of_slow_dtype
from astuner.models.fused_layers import use_fused_layers

_WEIGHT_FILES = ("*.safetensors", "*.bin")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
_PADDING_NAMES = ("<|endoftext|>", "<pad>", "<|pad|>", "[PAD]", "<|finetune_right_pad_id|>")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A policy ready to generate and to be trained."""

    model: PreTrainedModel
    """In evaluation mode, so that dropout is off; its parameters require gradients."""
    tokenizer: PreTrainedTokenizerBase
    """With a chat template and a padding token."""
    name_or_path: str
    dtype: torch.dtype
    """Compute dtype of every parameter."""
    device: torch.device


def load_policy(
    path: str, *, dtype: DtypeName, device: str = "auto", use_liger: bool | None = None
) -> LoadedModel:
    """Load a causal language model and its tokenizer from a folder or by its name on the hub.

    `dtype="auto"` is bfloat16 where the hardware computes in it, else float32; `device="auto"` is
    the first GPU, else the CPU; `use_liger=None` where it is installed. Raises ConfigError for what
    the user can mend (a folder that is missing or incomplete, a model without chat template) and
    BackboneError where loading failed.
    """
    transformers_logging.disable_progress_bar()
    place = choose_device(device)
    compute_dtype = choose_dtype(dtype, place)
    warn_of_slow_dtype(dtype, place)
    base = _base_of_adapter(path)
    source = _source(base or path)
    try:
        config = AutoConfig.from_pretrained(source)
        _check_config(path, config)
        tokenizer = AutoTokenizer.from_pretrained(source)
        _check_tokenizer(path, tokenizer)
        choose_padding_token(tokenizer)
        if base is not None:
            model, loading = load_merged(path, config=config, dtype=compute_dtype)[0], None
        else:
            loaded = AutoModelForCausalLM.from_pretrained(
                source,
                config=config,
                dtype=compute_dtype,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # refused below, by their names
            )
            model, loading = cast(tuple[PreTrainedModel, dict[str, Any]], loaded)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise _loading_error(path, error) from error
    if loading is not None:
        _check_weights(path, loading)
    _check_vocabulary(path, model, tokenizer)
    cast(nn.Module, model).to(place)
    model.eval()
    if use_liger is not False:
        use_fused_layers(model, is_asked=use_liger is True)
    return LoadedModel(
        model=model,
        tokenizer=tokenizer,
        name_or_path=path,
        dtype=compute_dtype,
        device=place,
    )


def load_config(path: str) -> PreTrainedConfig | None:
    """Of the model in the folder or of that name; None where it cannot be read."""
    try:
        return AutoConfig.from_pretrained(_source(_base_of_adapter(path) or path))
    except (OSError, ValueError, KeyError):
        return None


def load_tokenizer(path: str) -> PreTrainedTokenizerBase:
    """Of the model in the folder or of that name. Raises as `load_policy` does."""
    source = _source(_base_of_adapter(path) or path)
    try:
        return AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise _loading_error(path, error) from error


def _base_of_adapter(path: str) -> str | None:
    """Where the folder holds an adapter only, the model that it was trained on."""
    file = Path(path).expanduser() / ADAPTER_CONFIG_NAME
    if not file.is_file():
        return None
    return json.loads(file.read_text(encoding="utf-8"))["base_model_name_or_path"]


def _source(path: str) -> str:
    """The folder's absolute path, or the hub's name unchanged."""
    folder = Path(path).expanduser()
    if folder.is_dir():
        _check_folder(folder)
        return str(folder.resolve())
    if folder.exists():
        raise ConfigError(f"loading the model: {folder} is a file; give the folder that holds it")
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", path) or path.startswith("."):
        raise ConfigError(
            f"loading the model: no folder {folder.absolute()}; the nearest one that exists is "
            f"{_nearest_existing(folder.absolute())}. Give a model folder or a name on the hub "
            "such as Qwen/Qwen2.5-0.5B-Instruct"
        )
    return path


def _nearest_existing(folder: Path) -> Path:
    return next(parent for parent in folder.parents if parent.is_dir())


def _check_folder(folder: Path) -> None:
    found = sorted(entry.name for entry in folder.iterdir())
    missing = {
        "config.json": not (folder / "config.json").is_file(),
        "weights (*.safetensors)": not any(any(folder.glob(name)) for name in _WEIGHT_FILES),
        "a tokenizer (tokenizer.json)": not any((folder / n).is_file() for n in _TOKENIZER_FILES),
    }
    lacks = [name for name, is_missing in missing.items() if is_missing]
    if lacks:
        raise ConfigError(
            f"loading the model: folder {folder} lacks {' and '.join(lacks)}; "
            f"found {found[:12] or 'nothing'}. Give a folder written by save_pretrained of both "
            "model and tokenizer"
        )


def _check_config(path: str, config: PreTrainedConfig) -> None:
    if getattr(config, "quantization_config", None):
        raise ConfigError(
            f"loading the model: the weights of {path} are quantized, which cannot be trained; "
            "use the model's unquantized weights"
        )
    if config.is_encoder_decoder:
        raise ConfigError(
            f"loading the model: {path} is an encoder-decoder ({config.model_type}); "
            "use a decoder-only chat model"
        )


def _check_tokenizer(path: str, tokenizer: PreTrainedTokenizerBase) -> None:
    if not tokenizer.chat_template:
        raise ConfigError(
            f"loading the model: the tokenizer of {path} has no chat template, so it is probably "
            "a base model; use its instruct variant, or add chat_template.jinja to its folder"
        )


def choose_padding_token(tokenizer: PreTrainedTokenizerBase) -> None:
    """Where none is set, take a token made for padding, else the end token."""
    if tokenizer.pad_token is None:
        known = tokenizer.get_vocab()
        names = [name for name in _PADDING_NAMES if name in known]
        tokenizer.pad_token = names[0] if names else tokenizer.eos_token


def _check_weights(path: str, loading: dict[str, Any]) -> None:
    missing = sorted(loading["missing_keys"])
    if missing:
        raise BackboneError(
            f"loading the model: the weights of {path} lack {len(missing)} tensors, "
            f"among them {missing[:3]}, which would start random; download the weights again"
        )
    if other := sorted(loading["mismatched_keys"]):
        name, found, expected = other[0]
        raise ConfigError(
            f"loading the model: {len(other)} tensors of {path} have other shapes than its "
            f"config.json says, among them {name}: {list(found)} in place of {list(expected)}; take "
            "the config.json that belongs to the weights"
        )


def _check_vocabulary(
    path: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    num_rows = cast(nn.Embedding, model.get_input_embeddings()).num_embeddings
    if len(tokenizer) > num_rows:
        raise ConfigError(
            f"loading the model: the tokenizer of {path} has {len(tokenizer)} tokens, but the "
            f"model's embedding only {num_rows}; they are not of the same model, or tokens were "
            "added without `resize_token_embeddings`"
        )


def _loading_error(path: str, error: Exception) -> BackboneError:
    where = "folder" if Path(path).expanduser().is_dir() else "hub name"
    advice = "see whether its files are whole" if where == "folder" else (
        "see whether the name is right and this machine reaches the hub (for a gated model: "
        "`hf auth login`), or give the folder of a downloaded copy"
    )  # fmt: skip
    what = " ".join(str(error).split())
    return BackboneError(
        f"loading the model: {where} {path} failed with {type(error).__name__}: {what[:500]}; "
        f"{advice}"
    )
