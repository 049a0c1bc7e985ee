"""Attention over a packed row on a GPU: a few kernel calls a layer, however many the segments.

The flash kernel under torch's variable-length attention takes rows of any lengths, and fewer key
heads than query heads. It is called directly because the public function gives no log-sum-exp,
which joins what a token sees in its own segment with what it sees in those that it continues.

Shapes: T flat tokens, H query heads, J key heads, D head size; Q tokens that continue a segment of
one level.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from astuner.training.packing import Layout, Ragged


def ragged_attention(
    query_THD: Tensor, key_TJD: Tensor, value_TJD: Tensor, *, layout: Layout, scale: float
) -> Tensor:
    """Every token attends to its segment up to itself, and to all segments that this continues.

    In half precision on CUDA. Returns (T, H, D); differentiable.
    """
    return _RaggedAttention.apply(query_THD, key_TJD, value_TJD, layout, scale)


class _RaggedOutput(NamedTuple):
    """Values averaged by attention, and the log-sum-exp of the scores of each query."""

    out_THD: Tensor
    lse_HT: Tensor
    """float32."""


class _RaggedAttention(torch.autograd.Function):
    """The parts are joined by their log-sum-exp, and share the one of the whole in the backward
    pass, as in ring attention, arXiv 2310.01889."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, layout: Layout, scale: float
    ) -> Tensor:
        query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
        whole = _forward(query, key, value, layout.rows, layout.rows, scale, is_causal=True)
        for level in layout.levels:
            part = _forward(
                query.index_select(0, level.query_flat),
                key.index_select(0, level.key_flat),
                value.index_select(0, level.key_flat),
                level.query,
                level.key,
                scale,
                is_causal=False,
            )
            _join(whole, part, level.query_flat)
        ctx.save_for_backward(query, key, value, *whole)
        ctx.layout, ctx.scale = layout, scale
        return whole.out_THD

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, *saved = ctx.saved_tensors
        grad, whole = grads[0].contiguous(), _RaggedOutput(*saved)
        layout: Layout = ctx.layout
        rows = layout.rows
        totals = _backward(grad, query, key, value, whole, rows, rows, ctx.scale, is_causal=True)
        for level in layout.levels:
            parts = _backward(
                grad.index_select(0, level.query_flat),
                query.index_select(0, level.query_flat),
                key.index_select(0, level.key_flat),
                value.index_select(0, level.key_flat),
                _RaggedOutput(
                    whole.out_THD.index_select(0, level.query_flat),
                    whole.lse_HT.index_select(1, level.query_flat),
                ),
                level.query,
                level.key,
                ctx.scale,
                is_causal=False,
            )
            places = (level.query_flat, level.key_flat, level.key_flat)
            for total, part, place in zip(totals, parts, places, strict=True):
                # No index occurs twice, so that the sums are the same in every run.
                total[place] += part
        return (*totals, None, None)


def _join(whole: _RaggedOutput, part: _RaggedOutput, place_Q: Tensor) -> None:
    """Add, in place, attention of some queries over further keys."""
    lse_HQ = whole.lse_HT.index_select(1, place_Q)
    weight_QH1 = torch.sigmoid(part.lse_HT - lse_HQ).T[..., None]
    out_QHD = whole.out_THD.index_select(0, place_Q).float()
    joined_QHD = torch.lerp(out_QHD, part.out_THD.float(), weight_QH1)
    whole.out_THD.index_copy_(0, place_Q, joined_QHD.to(whole.out_THD.dtype))
    whole.lse_HT.index_copy_(1, place_Q, torch.logaddexp(lse_HQ, part.lse_HT))


def _forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_rows: Ragged,
    key_rows: Ragged,
    scale: float,
    *,
    is_causal: bool,
) -> _RaggedOutput:
    out, lse, *_ = torch.ops.aten._flash_attention_forward(
        query,
        key,
        value,
        query_rows.ends,
        key_rows.ends,
        query_rows.longest,
        key_rows.longest,
        0.0,
        is_causal,
        False,
        scale=scale,
    )
    return _RaggedOutput(out, lse)


def _backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attended: _RaggedOutput,
    query_rows: Ragged,
    key_rows: Ragged,
    scale: float,
    *,
    is_causal: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    # Empty: the state of dropout, of which there is none.
    empty = torch.empty(0, dtype=torch.int64, device=grad.device)
    return torch.ops.aten._flash_attention_backward(
        grad,
        query,
        key,
        value,
        attended.out_THD,
        attended.lse_HT.contiguous(),
        query_rows.ends,
        key_rows.ends,
        query_rows.longest,
        key_rows.longest,
        0.0,
        is_causal,
        empty,
        empty,
        scale=scale,
    )
