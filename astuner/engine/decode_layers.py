"""One new token a row through the layers of a well-known decoder, in fewer and larger kernels.

A layer of transformers is 16 kernels, most of them short. Here it is nine:
queries, keys and values are one product, and so are gate and value of the gated layer; a norm takes
the sum with it, and a rotation the writing to pages. Models of other families, and layers with
adapters where they have one, go through their own modules.

Shapes: N rows, E hidden size.
"""

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from astuner.engine.decode_layer_kernel import (
    HeadNorms,
    add_and_normalize,
    gate,
    rotate_and_write,
)
from astuner.models.joined_weights import JoinedLayers, can_be_joined

_DECODERS = {"LlamaModel", "MistralModel", "Qwen2Model", "Qwen3Model"}
"""Of transformers; their layers differ in biases, head norms and windows only."""

_STEADY_TURNS = {"default", "linear", "llama3", "yarn"}
"""Kinds of rotation that depend on a token's position alone."""


class RowsOfPass(Protocol):
    """What the layers have to know of a pass."""

    slots: Tensor
    addresses: Tensor

    def attend_to_written(
        self, layer: int, query: Tensor, *, num_key_heads: int, scaling: float, window: int | None
    ) -> Tensor:
        """query (N, H, D); as query."""
        ...


def fits(decoder: Any) -> bool:
    """Whether `DecodeLayers` computes what this decoder does."""
    kind = type(decoder)
    if kind.__name__ not in _DECODERS or not kind.__module__.startswith("transformers."):
        return False
    return decoder.rotary_emb.rope_type in _STEADY_TURNS and decoder.config.hidden_act == "silu"


class DecodeLayers:
    """The layers of one decoder, whose weights it shares."""

    def __init__(self, decoder: Any, max_model_len: int) -> None:
        """For one that `fits`. Joins the weights of its plain layers."""
        self._decoder = decoder
        self._turns = _turns(decoder, max_model_len)
        self._layers = [_Layer(layer, decoder.config) for layer in decoder.layers]

    def rejoin(self) -> bool:
        """See to it that weights are used where they are now; whether any had moved."""
        if all(layer.is_current for layer in self._layers):
            return False
        self._layers = [_Layer(layer, self._decoder.config) for layer in self._decoder.layers]
        return True

    def __call__(self, id_N: Tensor, position_N: Tensor, rows: RowsOfPass) -> Tensor:
        """The hidden states (N, E) of the last layer, normalized."""
        stream = self._decoder.embed_tokens(id_N)
        new = None
        for layer in self._layers:
            new = layer(stream, new, position_N, self._turns, rows)
        norm = self._decoder.norm
        return add_and_normalize(stream, new, norm.weight, eps=norm.variance_epsilon)


class _Layer:
    def __init__(self, layer: Any, config: Any) -> None:
        self._layer = layer
        self._attention = attention = layer.self_attn
        self._num_key_heads: int = config.num_key_value_heads
        self._window = getattr(attention, "sliding_window", None)
        if type(attention).__name__ == "MistralAttention":
            self._window = getattr(config, "sliding_window", None)
        self._read = _together([attention.q_proj, attention.k_proj, attention.v_proj])
        self._widen = _together([layer.mlp.gate_proj, layer.mlp.up_proj])
        self._norms = None
        if hasattr(attention, "q_norm"):
            query, key = attention.q_norm, attention.k_norm
            self._norms = HeadNorms(query.weight, key.weight, query.variance_epsilon)

    @property
    def is_current(self) -> bool:
        joined = [one for one in (self._read, self._widen) if isinstance(one, JoinedLayers)]
        return all(one.is_current for one in joined)

    def __call__(
        self,
        stream: Tensor,
        new: Tensor | None,
        position_N: Tensor,
        turns: Tensor,
        rows: RowsOfPass,
    ) -> Tensor:
        """What is to be added to `stream` (N, E) behind `new`, which is added in place."""
        layer, attention = self._layer, self._attention
        norm = layer.input_layernorm
        normed = add_and_normalize(stream, new, norm.weight, eps=norm.variance_epsilon)
        query, key, value = (x.unflatten(-1, (-1, attention.head_dim)) for x in self._read(normed))
        rotate_and_write(
            query,
            key,
            value,
            turns,
            position_N,
            rows.addresses,
            rows.slots,
            layer=attention.layer_idx,
            norms=self._norms,
        )
        attended = rows.attend_to_written(
            attention.layer_idx,
            query,
            num_key_heads=self._num_key_heads,
            scaling=attention.scaling,
            window=self._window,
        )
        norm = layer.post_attention_layernorm
        normed = add_and_normalize(
            stream, attention.o_proj(attended.flatten(1)), norm.weight, eps=norm.variance_epsilon
        )
        return layer.mlp.down_proj(gate(*self._widen(normed)))


class _Apart:
    """Layers that have adapters: each computes for itself."""

    def __init__(self, layers: list[nn.Module]) -> None:
        self._layers = layers

    def __call__(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(layer(x) for layer in self._layers)


def _together(layers: list[Any]) -> JoinedLayers | _Apart:
    return JoinedLayers(layers) if can_be_joined(layers) else _Apart(layers)


@torch.no_grad()
def _turns(decoder: Any, num_positions: int) -> Tensor:
    """Cosines and sines (positions, 2, D) of the decoder's type."""
    weight = decoder.embed_tokens.weight
    positions = torch.arange(num_positions, device=weight.device)
    cos, sin = decoder.rotary_emb(weight[:1], positions[None])
    return torch.stack([cos[0], sin[0]], dim=1).contiguous()
