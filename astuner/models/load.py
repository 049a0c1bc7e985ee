"""Loads the policy: a causal language model and its tokenizer, from a folder or the hub.

The model is a plain transformers module, which generates and trains with the same storage.
"""

from dataclasses import dataclass
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
from astuner.models.adapter import load_merged
from astuner.models.device import DtypeName, choose_device, choose_dtype, warn_of_slow_dtype
from astuner.models.fused_layers import use_fused_layers
from astuner.models.source import base_of_adapter, loading_error, source_of

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
    base = base_of_adapter(path)
    source = source_of(base or path)
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
        raise loading_error(path, error) from error
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
