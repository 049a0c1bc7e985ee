"""Triton kernels for completions that grow: one query each, over pages of the key-value cache.

The caches are given by a table of addresses, so that a recorded CUDA graph stays valid when the
memory of the cache is given back and taken again elsewhere. The query heads of a key head are
handled together, and long contexts are split among programs, whose parts are joined by their
log-sum-exp (Flash-Decoding, T. Dao et al. 2023, https://pytorch.org/blog/flash-decoding/).

Shapes: N completions, H query heads, G key heads, R = H / G, D head size, S splits.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

_KEYS_AT_ONCE = 64
_NUM_PROGRAMS = 264
"""About what keeps a large GPU busy: two for each of its multiprocessors."""
_MAX_SPLITS = 16


def write_to_pages(
    key: Tensor, value: Tensor, addresses: Tensor, slots: Tensor, *, layer: int
) -> None:
    """Write key and value (N, G, D) of the layer to `slots` (N) int64.

    `addresses` holds those of the keys and values of every layer, in turn, as int64.
    """
    num_rows, num_heads, size = key.shape
    _write[(num_rows, num_heads)](
        key,
        value,
        addresses,
        slots,
        layer,
        key.stride(0),
        key.stride(1),
        value.stride(0),
        value.stride(1),
        num_heads=num_heads,
        size=size,
        block=triton.next_power_of_2(size),
        dtype=TRITON_DTYPES[key.dtype],
    )


def decode_attention(
    query: Tensor,
    addresses: Tensor,
    tables: Tensor,
    lengths: Tensor,
    *,
    layer: int,
    num_key_heads: int,
    page_size: int,
    scaling: float,
    window: int | None,
) -> Tensor:
    """Attend with query (N, H, D) to the first `lengths` (N) int32 tokens of each completion.

    `tables` (N, pages) int32 holds the pages of each. With `window`, only the last tokens count.
    Returns (N, H, D). Keys and values have the head size and the dtype of the query.
    """
    num_rows, num_heads, size = query.shape
    heads_per_key_head = num_heads // num_key_heads
    splits = min(_MAX_SPLITS, max(1, _NUM_PROGRAMS // (num_rows * num_key_heads)))
    part = torch.empty(
        (num_rows, num_heads, splits, size), dtype=torch.float32, device=query.device
    )
    part_lse = torch.empty((num_rows, num_heads, splits), dtype=torch.float32, device=query.device)
    block_size = triton.next_power_of_2(size)
    _attend[(num_rows, num_key_heads, splits)](
        query,
        addresses,
        tables,
        lengths,
        part,
        part_lse,
        layer,
        query.stride(0),
        query.stride(1),
        tables.stride(0),
        scaling * 1.4426950408889634,
        num_heads=num_heads,
        num_key_heads=num_key_heads,
        heads_per_key_head=heads_per_key_head,
        size=size,
        page_size=page_size,
        window=window or 0,
        splits=splits,
        block_heads=max(16, triton.next_power_of_2(heads_per_key_head)),
        block_size=block_size,
        block_keys=_KEYS_AT_ONCE,
        dtype=TRITON_DTYPES[query.dtype],
        num_warps=4,
    )
    out = torch.empty((num_rows, num_heads, size), dtype=query.dtype, device=query.device)
    _join[(num_rows, num_heads)](
        part,
        part_lse,
        out,
        num_heads=num_heads,
        size=size,
        splits=splits,
        block_splits=triton.next_power_of_2(splits),
        block_size=block_size,
        num_warps=1,
    )
    return out


TRITON_DTYPES: dict[torch.dtype, Any] = {
    torch.bfloat16: tl.bfloat16,
    torch.float16: tl.float16,
    torch.float32: tl.float32,
}


@triton.jit(do_not_specialize=["layer"])
def _write(
    key,
    value,
    addresses,
    slots,
    layer,
    key_row_stride,
    key_head_stride,
    value_row_stride,
    value_head_stride,
    num_heads: tl.constexpr,
    size: tl.constexpr,
    block: tl.constexpr,
    dtype: tl.constexpr,
):
    row, head = tl.program_id(0), tl.program_id(1)
    keys = tl.load(addresses + 2 * layer).to(tl.pointer_type(dtype))
    values = tl.load(addresses + 2 * layer + 1).to(tl.pointer_type(dtype))
    place = (tl.load(slots + row) * num_heads + head) * size
    at = tl.arange(0, block)
    is_real = at < size
    new_key = tl.load(key + row * key_row_stride + head * key_head_stride + at, is_real)
    new_value = tl.load(value + row * value_row_stride + head * value_head_stride + at, is_real)
    tl.store(keys + place + at, new_key, is_real)
    tl.store(values + place + at, new_value, is_real)


@triton.jit(do_not_specialize=["layer"])
def _attend(
    query,
    addresses,
    tables,
    lengths,
    part,
    part_lse,
    layer,
    query_row_stride,
    query_head_stride,
    table_stride,
    scaling_log2,
    num_heads: tl.constexpr,
    num_key_heads: tl.constexpr,
    heads_per_key_head: tl.constexpr,
    size: tl.constexpr,
    page_size: tl.constexpr,
    window: tl.constexpr,
    splits: tl.constexpr,
    block_heads: tl.constexpr,
    block_size: tl.constexpr,
    block_keys: tl.constexpr,
    dtype: tl.constexpr,
):
    row, key_head, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    keys = tl.load(addresses + 2 * layer).to(tl.pointer_type(dtype))
    values = tl.load(addresses + 2 * layer + 1).to(tl.pointer_type(dtype))
    length = tl.load(lengths + row)
    first = 0
    if window > 0:
        first = tl.maximum(0, length - window)
    # Each split takes whole blocks.
    per_split = tl.cdiv(tl.cdiv(length - first, splits), block_keys) * block_keys
    start = first + split * per_split
    end = tl.minimum(length, start + per_split)

    at_head = tl.arange(0, block_heads)
    at_size = tl.arange(0, block_size)
    head = key_head * heads_per_key_head + at_head
    is_head = at_head < heads_per_key_head
    is_size = at_size < size
    queries = tl.load(
        query + row * query_row_stride + head[:, None] * query_head_stride + at_size[None, :],
        is_head[:, None] & is_size[None, :],
        other=0.0,
    )
    top = tl.full([block_heads], -float("inf"), tl.float32)
    total = tl.zeros([block_heads], tl.float32)
    mean = tl.zeros([block_heads, block_size], tl.float32)
    for block_start in range(start, end, block_keys):
        at_key = block_start + tl.arange(0, block_keys)
        is_key = at_key < end
        page = tl.load(tables + row * table_stride + at_key // page_size, is_key, other=0)
        slot = page.to(tl.int64) * page_size + at_key % page_size
        place = (slot * num_key_heads + key_head) * size
        is_real = is_key[:, None] & is_size[None, :]
        key = tl.load(keys + place[:, None] + at_size[None, :], is_real, other=0.0)
        score = tl.dot(queries, tl.trans(key), input_precision="ieee").to(tl.float32) * scaling_log2
        score = tl.where(is_key[None, :], score, -float("inf"))
        new_top = tl.maximum(top, tl.max(score, 1))
        shrink = tl.exp2(top - new_top)
        share = tl.exp2(score - new_top[:, None])
        value = tl.load(values + place[:, None] + at_size[None, :], is_real, other=0.0)
        mean = mean * shrink[:, None] + tl.dot(share.to(value.dtype), value, input_precision="ieee")
        total = total * shrink + tl.sum(share, 1)
        top = new_top
    is_any = end > start
    lse = tl.where(is_any, top + tl.log2(total), -float("inf"))
    mean = tl.where(is_any, mean / total[:, None], 0.0)
    place = (row * num_heads + head) * splits + split
    tl.store(part_lse + place, lse, is_head)
    tl.store(
        part + place[:, None] * size + at_size[None, :],
        mean,
        is_head[:, None] & is_size[None, :],
    )


@triton.jit
def _join(
    part,
    part_lse,
    out,
    num_heads: tl.constexpr,
    size: tl.constexpr,
    splits: tl.constexpr,
    block_splits: tl.constexpr,
    block_size: tl.constexpr,
):
    place = tl.program_id(0) * num_heads + tl.program_id(1)
    at_split = tl.arange(0, block_splits)
    at_size = tl.arange(0, block_size)
    is_split = at_split < splits
    is_size = at_size < size
    lse = tl.load(part_lse + place * splits + at_split, is_split, other=-float("inf"))
    weight = tl.exp2(lse - tl.max(lse, 0))
    means = tl.load(
        part + (place * splits + at_split[:, None]) * size + at_size[None, :],
        is_split[:, None] & is_size[None, :],
        other=0.0,
    )
    mean = tl.sum(means * weight[:, None], 0) / tl.sum(weight, 0)
    tl.store(out + place * size + at_size, mean.to(out.dtype.element_ty), is_size)
