"""Attention over the forest of segments that `packing.py` lays out.

Each segment attends to itself causally, and each shared segment makes one dense call for all that
continue it; the parts are joined by their log-sum-exp. Owns the attention function that the model
uses while it is trained, on CPU and GPU.

Shapes: T flat tokens, B rows, H query heads, J key heads, D head size, Q queries, K keys.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from astuner.errors import BackboneError
from astuner.training.packing import Bucket, Layout, Segment
from astuner.training.ragged_attention import ragged_attention

ATTENTION_NAME = "astuner_packed"
"""Under which transformers knows the attention of this file."""


@contextmanager
def packed_attention_enabled(model: PreTrainedModel) -> Iterator[None]:
    """Let the model attend by the layout given to its forward as `packed_layout`.

    The attention that was set before is set again afterwards. The model must not generate
    meanwhile. Raises BackboneError for a model whose attention cannot be replaced.
    """
    before = model.config._attn_implementation or "sdpa"
    model.set_attn_implementation(ATTENTION_NAME)
    try:
        if model.config._attn_implementation != ATTENTION_NAME:
            raise BackboneError(
                f"training pass failed: the attention of {type(model).__name__} cannot be "
                "replaced; use a model such as Llama, Qwen, Gemma or Mistral"
            )
        yield
    finally:
        model.set_attn_implementation(before)


def packed_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    packed_layout: Layout | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention of one layer over a packed row, with the signature that transformers calls.

    Query (1, H, T, D), key and value (1, J, T, D), result (1, T, H, D). Raises BackboneError where
    the layer asks for something that is not supported, or the layout did not arrive.
    """
    unsupported = {
        "attention sinks": s_aux is not None,
        "dropout": dropout > 0,
        "a mask of its own": attention_mask is not None,
        "a missing layout": packed_layout is None,
    }
    if any(unsupported.values()) or packed_layout is None:
        what = ", ".join(name for name, is_asked in unsupported.items() if is_asked)
        raise BackboneError(
            f"training pass failed in {type(module).__name__}: packed attention met {what}; "
            "use a model with plain decoder attention, such as Llama, Qwen or Mistral"
        )
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    window = sliding_window if sliding_window and sliding_window < packed_layout.longest_path else 0
    is_plain = not window and not softcap and query.shape[-1] == value.shape[-1]
    if is_plain and query.is_cuda and query.dtype in (torch.bfloat16, torch.float16):
        by_token = [x[0].transpose(0, 1) for x in (query, key, value)]
        return ragged_attention(*by_token, layout=packed_layout, scale=scale)[None], None
    kernel: _Kernel
    if is_plain and query.device.type == "cpu":
        kernel = _FlashOnCPU(scale=scale)
    else:
        kernel = _Matmul(scale=scale, window=window or None, softcap=softcap)
    output_THD = _ForestAttention.apply(
        query[0].transpose(0, 1),
        key[0].transpose(0, 1),
        value[0].transpose(0, 1),
        packed_layout,
        kernel,
    )
    return output_THD[None], None


ALL_ATTENTION_FUNCTIONS.register(ATTENTION_NAME, packed_attention)


def stores_scores_on_gpu(config: PreTrainedConfig, dtype: torch.dtype, *, longest: int) -> bool:
    """Whether `packed_attention` makes matrices of scores there, for samples of at most `longest`
    tokens: for what torch's kernel does not take."""
    text = config.get_text_config()
    window = getattr(text, "sliding_window", None)
    return (
        dtype not in (torch.bfloat16, torch.float16)
        or bool(getattr(text, "attn_logit_softcapping", None))
        or (window is not None and window < longest)
        or getattr(text, "v_head_dim", None) is not None
    )


class _Inputs(NamedTuple):
    """Queries, keys and values, or their gradients."""

    query: Tensor
    key: Tensor
    value: Tensor


class _Attended(NamedTuple):
    """Values averaged by attention, and the log-sum-exp of the scores of each query."""

    out: Tensor
    lse: Tensor
    """float32; -inf where a query sees no key."""


class _ForestAttention(torch.autograd.Function):
    """Attends within segments first, then adds what each shared segment gives to those behind it.

    The parts are joined by their log-sum-exp, and share the one of the whole in the backward pass,
    as in ring attention, arXiv 2310.01889.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query_THD: Tensor,
        key_TJD: Tensor,
        value_TJD: Tensor,
        layout: Layout,
        kernel: "_Kernel",
    ) -> Tensor:
        given = _Inputs._make(x.to(kernel.dtype) for x in (query_THD, key_TJD, value_TJD))
        out_THD = given.query.new_empty(
            (*query_THD.shape[:2], value_TJD.shape[2]), dtype=torch.float32
        )
        lse_TH = given.query.new_empty(query_THD.shape[:2], dtype=torch.float32)
        for bucket in layout.buckets:
            inputs = _Inputs._make(_rows(x, bucket) for x in given)
            part = kernel.forward(inputs, _causal_span(bucket))
            out_THD.index_copy_(0, bucket.flat_T, _flat(part.out.float(), bucket))
            lse_TH.index_copy_(0, bucket.flat_T, _flat(part.lse, bucket))
        for segment in layout.shared:
            later = _own_and_later(segment)[1]
            inputs = _inputs_of_later(given, segment)
            part = kernel.forward(inputs, _span_of_later(layout, segment))
            _merge(out_THD[later], lse_TH[later], part)
        result_THD = out_THD.to(query_THD.dtype)
        ctx.save_for_backward(query_THD, key_TJD, value_TJD, result_THD, lse_TH)
        ctx.layout, ctx.kernel = layout, kernel
        return result_THD

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        *originals, result_THD, lse_TH = ctx.saved_tensors
        layout: Layout = ctx.layout
        kernel: _Kernel = ctx.kernel
        given = _Inputs._make(x.to(kernel.dtype) for x in originals)
        grad_THD, out_THD = (x.to(kernel.dtype) for x in (grads[0], result_THD))
        sums = _Inputs._make(torch.zeros_like(x, dtype=torch.float32) for x in originals)
        for bucket in layout.buckets:
            parts = kernel.backward(
                _without_padding(_rows(grad_THD, bucket), bucket),
                _Inputs._make(_rows(x, bucket) for x in given),
                _Attended(_rows(out_THD, bucket), _rows(lse_TH, bucket)),
                _causal_span(bucket),
            )
            for total, part in zip(sums, parts, strict=True):
                total.index_copy_(0, bucket.flat_T, _flat(part.float(), bucket))
        for segment in layout.shared:
            own, later = _own_and_later(segment)
            parts = kernel.backward(
                _one_row(grad_THD[later]),
                _inputs_of_later(given, segment),
                _Attended(_one_row(out_THD[later]), _one_row(lse_TH[later])),
                _span_of_later(layout, segment),
            )
            for total, part, place in zip(sums, parts, (later, own, own), strict=True):
                total[place] += part[0].transpose(0, 1)
        gradients = (total.to(x.dtype) for total, x in zip(sums, originals, strict=True))
        return (*gradients, None, None)


def _own_and_later(segment: Segment) -> tuple[slice, slice]:
    return slice(segment.start, segment.end), slice(segment.end, segment.subtree_end)


def _inputs_of_later(given: _Inputs, segment: Segment) -> _Inputs:
    """Queries of the segments that continue this one, with its keys and values, as one row."""
    own, later = _own_and_later(segment)
    return _Inputs(
        _one_row(given.query[later]), _one_row(given.key[own]), _one_row(given.value[own])
    )


def _span_of_later(layout: Layout, segment: Segment) -> "_KernelSpan":
    own, later = _own_and_later(segment)
    return _KernelSpan(layout.position_T[later], layout.position_T[own], is_causal=False)


def _one_row(x_TH: Tensor) -> Tensor:
    """(T, H, ...) to (1, H, T, ...), without a copy."""
    return x_TH.transpose(0, 1)[None]


def _rows(x_TH: Tensor, bucket: Bucket) -> Tensor:
    """(T, H, ...) to (B, H, Q, ...)."""
    rows = x_TH.index_select(0, bucket.source_BQ.flatten())
    return rows.view(*bucket.source_BQ.shape, *x_TH.shape[1:]).transpose(1, 2)


def _flat(x_BHQ: Tensor, bucket: Bucket) -> Tensor:
    """The places of (B, H, Q, ...) that are not padding, as (T, H, ...)."""
    return x_BHQ.transpose(1, 2).flatten(0, 1).index_select(0, bucket.place_T)


def _without_padding(x_BHQ: Tensor, bucket: Bucket) -> Tensor:
    """With zeros on padding, so that it sends no gradient to keys and values."""
    is_real = torch.zeros(bucket.source_BQ.numel(), dtype=x_BHQ.dtype, device=x_BHQ.device)
    is_real[bucket.place_T] = 1
    return x_BHQ * is_real.view(bucket.source_BQ.shape)[:, None, :, None]


def _merge(out_THD: Tensor, lse_TH: Tensor, part: _Attended) -> None:
    """Add, in place, attention over further keys to attention over earlier ones."""
    part_lse_TH = part.lse[0].transpose(0, 1)
    weight_TH = torch.sigmoid(part_lse_TH - lse_TH)
    out_THD.lerp_(part.out[0].transpose(0, 1).float(), weight_TH[..., None])
    torch.logaddexp(lse_TH, part_lse_TH, out=lse_TH)


@dataclass(frozen=True, slots=True)
class _KernelSpan:
    """Positions of queries and keys of one kernel call."""

    query_Q: Tensor
    key_K: Tensor
    is_causal: bool
    """Whether some keys lie behind queries; then both count the same tokens."""


def _causal_span(bucket: Bucket) -> _KernelSpan:
    places_Q = torch.arange(bucket.source_BQ.shape[1], device=bucket.source_BQ.device)
    return _KernelSpan(places_Q, places_Q, is_causal=True)


class _Kernel(Protocol):
    """Attention of B rows of queries (B, H, Q, D) to B rows of keys (B, J, K, D)."""

    dtype: torch.dtype
    """Of queries, keys, values, outputs and their gradients."""

    def forward(self, inputs: _Inputs, span: _KernelSpan) -> _Attended: ...

    def backward(
        self, grad_BHQD: Tensor, inputs: _Inputs, attended: _Attended, span: _KernelSpan
    ) -> _Inputs:
        """Gradients of the inputs.

        `attended` is about *all* keys of each query; the given keys may be a part of them. The
        gradients of all parts add up to those of the whole.
        """
        ...


class _FlashOnCPU:
    """The kernel under torch's scaled_dot_product_attention on CPU.

    Called directly because the public function gives no log-sum-exp. In float32: its bfloat16
    backward is 4 times slower on segments of tens of tokens.
    """

    dtype = torch.float32

    def __init__(self, *, scale: float) -> None:
        self._scale = scale

    def forward(self, inputs: _Inputs, span: _KernelSpan) -> _Attended:
        return _Attended._make(
            torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
                *inputs, 0.0, span.is_causal, scale=self._scale
            )
        )

    def backward(
        self, grad_BHQD: Tensor, inputs: _Inputs, attended: _Attended, span: _KernelSpan
    ) -> _Inputs:
        return _Inputs._make(
            torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
                grad_BHQD, *inputs, *attended, 0.0, span.is_causal, scale=self._scale
            )
        )


class _Matmul:
    """Scores as a matrix: any device, sliding windows and soft-capped scores.

    G is the query heads of each key head.
    """

    dtype = torch.float32

    def __init__(self, *, scale: float, window: int | None, softcap: float | None) -> None:
        self._scale = scale
        self._window = window
        self._softcap = softcap

    def forward(self, inputs: _Inputs, span: _KernelSpan) -> _Attended:
        score_BJGQK = self._scores(inputs, span)
        lse_BJGQ = score_BJGQK.logsumexp(-1)
        # A query that sees no key has lse -inf; any finite number in its place gives it zeros.
        share_BJGQK = (score_BJGQK - lse_BJGQ.clamp_min(-1e30)[..., None]).exp()
        out_BJGQD = share_BJGQK @ inputs.value[:, :, None]
        return _Attended(out_BJGQD.flatten(1, 2), lse_BJGQ.flatten(1, 2))

    def backward(
        self, grad_BHQD: Tensor, inputs: _Inputs, attended: _Attended, span: _KernelSpan
    ) -> _Inputs:
        query_BJGQD, grad_BJGQD = (_grouped(x, inputs.key) for x in (inputs.query, grad_BHQD))
        score_BJGQK = self._scores(inputs, span)
        share_BJGQK = (score_BJGQK - _grouped(attended.lse, inputs.key)[..., None]).exp()
        mean_BJGQ = _grouped((grad_BHQD * attended.out).sum(-1), inputs.key)
        grad_share_BJGQK = grad_BJGQD @ inputs.value[:, :, None].mT
        grad_score_BJGQK = share_BJGQK * (grad_share_BJGQK - mean_BJGQ[..., None])
        if self._softcap:
            slope_BJGQK = 1 - (score_BJGQK / self._softcap).square()
            grad_score_BJGQK = (grad_score_BJGQK * slope_BJGQK).masked_fill(share_BJGQK == 0, 0)
        grad_query_BJGQD = grad_score_BJGQK @ inputs.key[:, :, None] * self._scale
        grad_key_BJGKD = grad_score_BJGQK.mT @ query_BJGQD * self._scale
        grad_value_BJGKD = share_BJGQK.mT @ grad_BJGQD
        return _Inputs(
            grad_query_BJGQD.flatten(1, 2), grad_key_BJGKD.sum(2), grad_value_BJGKD.sum(2)
        )

    def _scores(self, inputs: _Inputs, span: _KernelSpan) -> Tensor:
        """(B, J, G, Q, K), -inf where the query does not see the key."""
        score_BJGQK = _grouped(inputs.query, inputs.key) @ inputs.key[:, :, None].mT * self._scale
        if self._softcap:
            score_BJGQK = (score_BJGQK / self._softcap).tanh() * self._softcap
        distance_QK = span.query_Q[:, None] - span.key_K
        is_hidden_QK = distance_QK < 0
        if self._window:
            is_hidden_QK |= distance_QK >= self._window
        return score_BJGQK.masked_fill(is_hidden_QK, -math.inf)


def _grouped(x_BHQ: Tensor, key_BJKD: Tensor) -> Tensor:
    """(B, H, Q, ...) to (B, J, G, Q, ...)."""
    return x_BHQ.unflatten(1, (key_BJKD.shape[1], -1))
