"""Which type each tensor of a GGUF file gets: the mixtures of llama.cpp, by its own rules.

A mixture such as Q4_K_M spends more bits on what harms most when it is rounded: the output, and in
some layers the values of attention and the way back from the feed-forward. The rules are those of
llama_tensor_get_type_impl and tensor_type_fallback in llama.cpp's src/llama-quant.cpp, for the
types here. Pure; tensors are known by GGUF's names, types by ggml's.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Quantization = Literal["f32", "f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q4_k_m"]
"""As `--quantize` names it."""

BLOCK = 256
"""Weights that K types round together; a row has to be a multiple of it."""
SMALL_BLOCK = 32
"""The same of the types that stand in for them."""
_STAND_IN: Mapping[str, str] = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}
STAND_INS = ("Q5_0", "Q5_1", "Q8_0", "F16")
"""All types that a row gets which is no multiple of BLOCK."""
_LAYER = re.compile(r"blk\.(\d+)\.")
_FULL: Mapping[str, str] = {"q4_k_m": "Q4_K", "q5_k_m": "Q5_K", "q6_k": "Q6_K"}


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorShape:
    """One tensor of a file."""

    name: str
    row: int
    """Weights that lie one behind the other: the length of what it is multiplied with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """What the rules ask of the model as a whole."""

    num_layers: int
    num_experts: int
    """1 for a dense model."""
    is_tied: bool
    """The embeddings are the output, too."""


def model_shape(names: Sequence[str], *, num_experts: int) -> ModelShape:
    """By the names of the tensors of a file."""
    layers = [int(match[1]) for name in names if (match := _LAYER.match(name))]
    return ModelShape(
        num_layers=max(layers, default=-1) + 1,
        num_experts=max(1, num_experts),
        is_tied="output.weight" not in names,
    )


def type_of(tensor: TensorShape, model: ModelShape, quantization: Quantization) -> str:
    """The type that a tensor gets which the mixture rounds at all."""
    wanted = _wanted(tensor, model, quantization)
    if tensor.row % BLOCK == 0:
        return wanted
    # The output keeps more than its stand-in would.
    stand_in = "Q8_0" if _is_output(tensor.name, model) else _STAND_IN[wanted]
    return stand_in if tensor.row % SMALL_BLOCK == 0 else "F16"


def _wanted(tensor: TensorShape, model: ModelShape, quantization: Quantization) -> str:
    full = _FULL[quantization]
    if _is_output(tensor.name, model):
        return "Q6_K"
    more: Mapping[str, Callable[[], str]] = {
        "attn_v": lambda: "Q8_0" if model.num_experts == 8 else _by_layer(tensor, model, full),
        "attn_k": lambda: "Q8_0" if model.num_experts == 8 else full,
        "attn_output": lambda: "Q5_K" if model.num_experts == 8 and full == "Q4_K" else full,
        "attn_qkv": lambda: {"Q4_K": "Q5_K", "Q5_K": "Q6_K"}.get(full, full),
        "ffn_down": lambda: _by_layer(tensor, model, full),
        "ffn_down_exps": lambda: _by_layer(tensor, model, full),
    }
    part = _LAYER.sub("", tensor.name).removesuffix(".weight")
    return more.get(part, lambda: full)()


def _is_output(name: str, model: ModelShape) -> bool:
    return name == "output.weight" or (model.is_tied and name == "token_embd.weight")


def _by_layer(tensor: TensorShape, model: ModelShape, full: str) -> str:
    match = _LAYER.match(tensor.name)
    return "Q6_K" if match and _gets_more(int(match[1]), model.num_layers) else full


def _gets_more(layer: int, num_layers: int) -> bool:
    """The first and last eighth, and each third between them."""
    eighth = num_layers // 8
    return layer < eighth or layer >= 7 * num_layers // 8 or (layer - eighth) % 3 == 2
