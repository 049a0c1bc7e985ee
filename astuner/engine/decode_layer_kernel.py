"""Triton kernels for what stands between the matrix products of a layer, one new token a row.

They round where transformers' own layers do, so that a token's log-probability stays the same.

Shapes: N rows, E hidden size, H query heads, G key heads, D head size, I size between the products
of the gated layer, P positions.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from astuner.engine.decode_kernel import TRITON_DTYPES, layer_pages, overlap, wait_for_last

_GATES_AT_ONCE = 1024


class HeadNorms(NamedTuple):
    """Of models that normalize each head of queries and keys: weights (D)."""

    query: Tensor
    key: Tensor
    eps: float


def add_and_normalize(stream: Tensor, new: Tensor | None, weight: Tensor, *, eps: float) -> Tensor:
    """Add `new` (N, E) to `stream` (N, E) in place; returns its root mean square norm times
    `weight` (B. Zhang, R. Sennrich 2019, https://arxiv.org/abs/1910.07467, equation 4)."""
    num_rows, size = stream.shape
    normed = torch.empty_like(stream)
    _add_and_normalize[(num_rows,)](
        stream,
        stream if new is None else new,
        weight,
        normed,
        eps,
        adds=new is not None,
        size=size,
        block=triton.next_power_of_2(size),
        num_warps=4 if size <= 2048 else 8,
        **overlap(stream.device),
    )
    return normed


def rotate_and_write(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    turns: Tensor,
    positions: Tensor,
    addresses: Tensor,
    slots: Tensor,
    *,
    layer: int,
    norms: HeadNorms | None,
) -> None:
    """Rotate query (N, H, D) in place, and write the rotated key and the value (N, G, D) of the
    layer to `slots` (N) int64 (J. Su et al. 2021, https://arxiv.org/abs/2104.09864, equation 34).

    `turns` (P, 2, D) holds cosines and sines, `positions` (N) is int64, and `addresses` is that of
    `decode_kernel.write_to_pages`.
    """
    num_rows, num_heads, size = query.shape
    num_key_heads = key.shape[1]
    assert query.stride(1) == key.stride(1) == value.stride(1) == size
    _rotate_and_write[(num_rows, num_heads + num_key_heads)](
        query,
        key,
        value,
        turns,
        positions,
        addresses,
        slots,
        turns if norms is None else norms.query,
        turns if norms is None else norms.key,
        layer,
        query.stride(0),
        key.stride(0),
        value.stride(0),
        0.0 if norms is None else norms.eps,
        normalizes=norms is not None,
        num_heads=num_heads,
        num_key_heads=num_key_heads,
        size=size,
        half=size // 2,
        block=triton.next_power_of_2(size // 2),
        dtype=TRITON_DTYPES[query.dtype],
        num_warps=1,
        **overlap(query.device),
    )


def gate(gates: Tensor, values: Tensor) -> Tensor:
    """silu(gates) * values, of (N, I) (N. Shazeer 2020, https://arxiv.org/abs/2002.05202)."""
    num_rows, size = gates.shape
    gated = torch.empty((num_rows, size), dtype=gates.dtype, device=gates.device)
    _gate[(num_rows, triton.cdiv(size, _GATES_AT_ONCE))](
        gates,
        values,
        gated,
        gates.stride(0),
        values.stride(0),
        size=size,
        block=_GATES_AT_ONCE,
        num_warps=4,
        **overlap(gates.device),
    )
    return gated


@triton.jit
def _add_and_normalize(
    stream,
    new,
    weight,
    normed,
    eps,
    adds: tl.constexpr,
    size: tl.constexpr,
    block: tl.constexpr,
    overlaps: tl.constexpr,
):
    if overlaps:
        wait_for_last()
    at = tl.arange(0, block)
    is_real = at < size
    place = tl.program_id(0).to(tl.int64) * size + at
    dtype = normed.dtype.element_ty
    x = tl.load(stream + place, is_real, other=0.0).to(tl.float32)
    if adds:
        x += tl.load(new + place, is_real, other=0.0).to(tl.float32)
        tl.store(stream + place, x.to(dtype), is_real)
        x = x.to(dtype).to(tl.float32)
    x = (x * tl.rsqrt(tl.sum(x * x, 0) / size + eps)).to(dtype).to(tl.float32)
    scale = tl.load(weight + at, is_real, other=0.0).to(tl.float32)
    tl.store(normed + place, (x * scale).to(dtype), is_real)


@triton.jit(do_not_specialize=["layer"])
def _rotate_and_write(
    query,
    key,
    value,
    turns,
    positions,
    addresses,
    slots,
    query_norm,
    key_norm,
    layer,
    query_stride,
    key_stride,
    value_stride,
    eps,
    normalizes: tl.constexpr,
    num_heads: tl.constexpr,
    num_key_heads: tl.constexpr,
    size: tl.constexpr,
    half: tl.constexpr,
    block: tl.constexpr,
    dtype: tl.constexpr,
    overlaps: tl.constexpr,
):
    if overlaps:
        wait_for_last()
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    at = tl.arange(0, block)
    is_real = at < half
    turn = turns + tl.load(positions + row) * 2 * size + at
    if head < num_heads:
        place = query + row * query_stride + head * size + at
        left, right = _rotate_head(
            place, query_norm + at, turn, is_real, eps, normalizes, size, half, dtype
        )
        tl.store(place, left, is_real)
        tl.store(place + half, right, is_real)
    else:
        key_head = head - num_heads
        left, right = _rotate_head(
            key + row * key_stride + key_head * size + at,
            key_norm + at,
            turn,
            is_real,
            eps,
            normalizes,
            size,
            half,
            dtype,
        )
        slot = (tl.load(slots + row) * num_key_heads + key_head) * size + at
        keys, values = layer_pages(addresses, layer, dtype)
        keys += slot
        values += slot
        tl.store(keys, left, is_real)
        tl.store(keys + half, right, is_real)
        new = value + row * value_stride + key_head * size + at
        tl.store(values, tl.load(new, is_real), is_real)
        tl.store(values + half, tl.load(new + half, is_real), is_real)


@triton.jit
def _rotate_head(
    place,
    norm,
    turn,
    is_real,
    eps,
    normalizes: tl.constexpr,
    size: tl.constexpr,
    half: tl.constexpr,
    dtype: tl.constexpr,
):
    """The two halves of a head, rotated."""
    left = tl.load(place, is_real, other=0.0).to(tl.float32)
    right = tl.load(place + half, is_real, other=0.0).to(tl.float32)
    if normalizes:
        scale = tl.rsqrt((tl.sum(left * left, 0) + tl.sum(right * right, 0)) / size + eps)
        left = (left * scale).to(dtype).to(tl.float32)
        right = (right * scale).to(dtype).to(tl.float32)
        left *= tl.load(norm, is_real, other=0.0).to(tl.float32)
        right *= tl.load(norm + half, is_real, other=0.0).to(tl.float32)
        left, right = left.to(dtype).to(tl.float32), right.to(dtype).to(tl.float32)
    left_cos = tl.load(turn, is_real, other=0.0).to(tl.float32)
    right_cos = tl.load(turn + half, is_real, other=0.0).to(tl.float32)
    left_sin = tl.load(turn + size, is_real, other=0.0).to(tl.float32)
    right_sin = tl.load(turn + size + half, is_real, other=0.0).to(tl.float32)
    new_left = _rounded(left * left_cos, dtype) - _rounded(right * left_sin, dtype)
    new_right = _rounded(right * right_cos, dtype) + _rounded(left * right_sin, dtype)
    return new_left.to(dtype), new_right.to(dtype)


@triton.jit
def _rounded(x, dtype: tl.constexpr):
    return x.to(dtype).to(tl.float32)


@triton.jit
def _gate(
    gates,
    values,
    gated,
    gate_stride,
    value_stride,
    size: tl.constexpr,
    block: tl.constexpr,
    overlaps: tl.constexpr,
):
    if overlaps:
        wait_for_last()
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * block + tl.arange(0, block)
    is_real = at < size
    dtype = gated.dtype.element_ty
    x = tl.load(gates + row * gate_stride + at, is_real, other=0.0).to(tl.float32)
    opened = (x * tl.sigmoid(x)).to(dtype).to(tl.float32)
    value = tl.load(values + row * value_stride + at, is_real, other=0.0).to(tl.float32)
    tl.store(gated + row * size + at, (opened * value).to(dtype), is_real)
