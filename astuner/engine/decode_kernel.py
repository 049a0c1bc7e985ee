"""Triton kernels for completions that grow: one query each, over pages of the key-value cache.

The caches are given by a table of addresses, so that a recorded CUDA graph stays valid when the
memory of the cache is given back and taken again elsewhere. A pass reads each key and value once
and computes little with it, so what counts is that enough of them are under way:

- The query heads of a key head are handled together, by products on tensor cores that are mostly
  padding.
- A program copies blocks of keys and values to shared memory while it computes with the block
  before. Triton does so only for loads of at least 4 bytes, and of an address that it reads from a
  table it knows nothing: hence the hint that layers begin at multiples of 16 bytes.
- Programs of one warp wait for none of their threads, and many run on a multiprocessor.
- The keys are dealt out in each pass (`deal_keys`), since lengths differ and grow while a recorded
  graph keeps its number of programs. Long completions are split among programs, whose parts are
  joined by their log-sum-exp (Flash-Decoding, T. Dao et al. 2023,
  https://pytorch.org/blog/flash-decoding/). The last program to end joins them, as a counter
  tells (the fix-up of Stream-K, M. Osama et al. 2023, https://arxiv.org/abs/2301.03598); with few
  completions, each in many parts, a second kernel does, a program for each head.

Shapes: N completions, H query heads, G key heads, R = H / G, D head size,
P parts.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

_PROGRAMS_PER_MULTIPROCESSOR = 4
"""That parts are made for."""
_FEW_HEADS = 64
"""Key heads of all completions. Up to so many, each has many parts, to be joined in parallel."""
_LEAST_KEYS = {True: 64, False: 128}
"""Of a part of few heads and of others, unless the completion is shorter."""
_PARTS_AT_ONCE = {True: 64, False: 16}
"""That are joined in one step."""
_WORDS = tl.constexpr(8)
"""Of a part's description, so that none crosses a sector of memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deal:
    """Which keys each program of a pass attends to. Layers with the same window share one."""

    parts: Tensor
    """(P, 8) int32: row, first key, end, index among the parts of its row, and their number, which
    is 0 for a part without work. Parts of a row follow each other."""
    ranges: Tensor
    """(N, 2) int32: the first part of each row, and their number."""
    num_done: Tensor
    """(N, G) int32: parts that have ended. 0 before and after each layer."""


def deal_keys(lengths: Tensor, *, num_key_heads: int, window: int | None) -> Deal:
    """Deal the first `lengths` (N) int32 tokens of each completion, or the last `window` of them.

    No part gets more than its share of all keys when each multiprocessor has as many as it runs at
    a time, so one long completion among short ones keeps none waiting.
    """
    num_rows = len(lengths)
    num_programs = _PROGRAMS_PER_MULTIPROCESSOR * _num_multiprocessors(lengths.device)
    budget = triton.cdiv(num_programs, num_key_heads)
    is_few = num_rows * num_key_heads <= _FEW_HEADS
    num_parts = num_rows + budget
    parts = torch.empty((num_parts, _WORDS.value), dtype=torch.int32, device=lengths.device)
    ranges = parts.new_empty((num_rows, 2))
    num_done = parts.new_empty((num_rows, num_key_heads))
    _deal[(num_rows,)](
        lengths,
        parts,
        ranges,
        num_done,
        num_rows,
        num_parts,
        budget,
        _LEAST_KEYS[is_few],
        window or 2**31 - 1,
        num_key_heads=num_key_heads,
        block_keys=64 if is_few else 32,
        block_rows=max(128, triton.next_power_of_2(num_rows)),  # few sizes, each of them compiled
        block_parts=64,
    )
    return Deal(parts=parts, ranges=ranges, num_done=num_done)


@cache
def overlap(device: torch.device) -> dict[str, bool]:
    """Arguments of a kernel that is set up while the one before it ends, where the GPU can
    (programmatic dependent launch, of compute capability 9.0 on;
    https://docs.nvidia.com/cuda/cuda-c-programming-guide/). It calls `wait_for_last` before it
    touches memory. With few rows a kernel's launch takes as long as its work."""
    is_nvidia = device.type == "cuda" and torch.version.hip is None
    if not is_nvidia or torch.cuda.get_device_capability(device) < (9, 0):
        return {"overlaps": False}
    return {"overlaps": True, "launch_pdl": True}


@triton.jit
def wait_for_last():
    """Wait until the kernel before has ended, then let the next one be set up."""
    tl.extra.cuda.gdc_wait()
    tl.extra.cuda.gdc_launch_dependents()


def _num_multiprocessors(device: torch.device) -> int:
    if device.type != "cuda":  # Triton's interpreter
        return 1
    return torch.cuda.get_device_properties(device).multi_processor_count


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
        num_warps=1,
    )


def decode_attention(
    query: Tensor,
    addresses: Tensor,
    tables: Tensor,
    deal: Deal,
    *,
    layer: int,
    page_size: int,
    scaling: float,
) -> Tensor:
    """Attend with query (N, H, D) to the keys that were dealt out of each completion.

    `tables` (N, pages) int32 holds the pages of each. Returns (N, H, D). Keys and values have the
    head size and the dtype of the query, and begin at multiples of 16 bytes.
    """
    num_rows, num_heads, size = query.shape
    num_key_heads = deal.num_done.shape[1]
    num_parts = len(deal.parts)
    out = torch.empty((num_rows, num_heads, size), dtype=query.dtype, device=query.device)
    part_mean = out.new_empty((num_parts, num_heads, size), dtype=torch.float32)
    part_lse = out.new_empty((num_parts, num_heads), dtype=torch.float32)
    heads_per_key_head = num_heads // num_key_heads
    block_size = max(16, triton.next_power_of_2(size))
    block_heads = max(16, triton.next_power_of_2(heads_per_key_head))
    is_few = num_rows * num_key_heads <= _FEW_HEADS
    tiling = _tiling(num_rows * num_key_heads, block_heads, block_size, query)
    # Key heads first: programs that run at the same time read the same pages.
    _attend[(num_key_heads, num_parts)](
        query,
        addresses,
        tables,
        deal.parts,
        deal.num_done,
        part_mean,
        part_lse,
        out,
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
        block_heads=block_heads,
        block_size=block_size,
        block_keys=tiling.num_keys,
        block_parts=_PARTS_AT_ONCE[False],
        stages=tiling.num_stages,
        joins=not is_few,
        dtype=TRITON_DTYPES[query.dtype],
        num_warps=tiling.num_warps,
        **overlap(query.device),
    )
    if is_few:
        _join_row[(num_rows, num_heads)](
            part_mean,
            part_lse,
            deal.ranges,
            out,
            num_heads=num_heads,
            size=size,
            block_parts=_PARTS_AT_ONCE[True],
            block_size=block_size,
            num_warps=4,
            **overlap(query.device),
        )
    return out


@dataclass(frozen=True, slots=True)
class _Tiling:
    num_keys: int
    """Of a block."""
    num_warps: int
    num_stages: int
    """One more than there are blocks under way."""


def _tiling(num_row_heads: int, block_heads: int, block_size: int, query: Tensor) -> _Tiling:
    """As timed on an H200 for heads of 64 to 256 (benchmarks/decode_attention.py)."""
    # So much of the sums fits in a warp's registers. Exact products of float32 take more of them.
    size_per_warp = 512 if query.dtype == torch.float32 else 2048
    num_warps = min(8, max(1, block_heads * block_size // size_per_warp))
    if query.dtype == torch.float32 or block_size > 128:
        return _Tiling(32, num_warps, 2)
    if num_row_heads <= _FEW_HEADS:
        return _Tiling(64, max(4, num_warps), 2)  # few programs: the sooner each ends, the better
    # Where more programs wait than run, room for one more of them beats a block more under way.
    is_crowded = num_row_heads > 6 * _num_multiprocessors(query.device)
    return _Tiling(32, num_warps, 2 if is_crowded else 3)


TRITON_DTYPES: dict[torch.dtype, Any] = {
    torch.bfloat16: tl.bfloat16,
    torch.float16: tl.float16,
    torch.float32: tl.float32,
}


@triton.jit
def layer_pages(addresses, layer, dtype: tl.constexpr):
    """Where the keys and the values of a layer begin."""
    keys = tl.load(addresses + 2 * layer).to(tl.pointer_type(dtype))
    values = tl.load(addresses + 2 * layer + 1).to(tl.pointer_type(dtype))
    return tl.multiple_of(keys, 16), tl.multiple_of(values, 16)


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
    keys, values = layer_pages(addresses, layer, dtype)
    place = (tl.load(slots + row) * num_heads + head) * size
    at = tl.arange(0, block)
    is_real = at < size
    new_key = tl.load(key + row * key_row_stride + head * key_head_stride + at, is_real)
    new_value = tl.load(value + row * value_row_stride + head * value_head_stride + at, is_real)
    tl.store(keys + place + at, new_key, is_real)
    tl.store(values + place + at, new_value, is_real)


@triton.jit(do_not_specialize=["num_rows", "num_parts", "budget", "least_keys", "window"])
def _deal(
    lengths,
    parts,
    ranges,
    num_done,
    num_rows,
    num_parts,
    budget,
    least_keys,
    window,
    num_key_heads: tl.constexpr,
    block_keys: tl.constexpr,
    block_rows: tl.constexpr,
    block_parts: tl.constexpr,
):
    """Each program describes the parts of one row."""
    row = tl.program_id(0)
    at = tl.arange(0, block_rows)
    length = tl.load(lengths + at, at < num_rows, other=0)
    span = tl.minimum(length, window)
    share = tl.maximum(_whole_blocks(tl.cdiv(tl.sum(span, 0), budget), block_keys), least_keys)
    # Each row's last part may be small: there are at most `budget` full ones and one for each row.
    counts = tl.cdiv(span, share)
    first = tl.sum(tl.where(at < row, counts, 0), 0)
    count = tl.sum(tl.where(at == row, counts, 0), 0)
    end = tl.load(lengths + row)
    start = end - tl.minimum(end, window)
    keys = _whole_blocks(tl.cdiv(end - start, count), block_keys)
    for block in range(0, count, block_parts):
        index = block + tl.arange(0, block_parts)
        place = parts + (first + index) * _WORDS
        is_part = index < count
        tl.store(place, tl.zeros_like(index) + row, is_part)
        tl.store(place + 1, start + index * keys, is_part)
        tl.store(place + 2, tl.minimum(end, start + (index + 1) * keys), is_part)
        tl.store(place + 3, index, is_part)
        tl.store(place + 4, tl.zeros_like(index) + count, is_part)
    tl.store(ranges + 2 * row, first)
    tl.store(ranges + 2 * row + 1, count)
    for head in range(num_key_heads):
        tl.store(num_done + row * num_key_heads + head, 0)
    if row == num_rows - 1:
        for block in range(first + count, num_parts, block_parts):
            index = block + tl.arange(0, block_parts)
            tl.store(parts + index * _WORDS + 4, tl.zeros_like(index), index < num_parts)


@triton.jit
def _whole_blocks(num_keys, block_keys: tl.constexpr):
    """At least so many keys, and no block of them half used."""
    return tl.cdiv(num_keys, block_keys) * block_keys


@triton.jit(do_not_specialize=["layer"])
def _attend(
    query,
    addresses,
    tables,
    parts,
    num_done,
    part_mean,
    part_lse,
    out,
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
    block_heads: tl.constexpr,
    block_size: tl.constexpr,
    block_keys: tl.constexpr,
    block_parts: tl.constexpr,
    stages: tl.constexpr,
    joins: tl.constexpr,
    dtype: tl.constexpr,
    overlaps: tl.constexpr,
):
    """Each program attends to one part of one row, for the query heads of one key head."""
    if overlaps:
        wait_for_last()
    key_head, place = tl.program_id(0), tl.program_id(1)
    row = tl.load(parts + place * _WORDS)
    start = tl.load(parts + place * _WORDS + 1)
    end = tl.load(parts + place * _WORDS + 2)
    index = tl.load(parts + place * _WORDS + 3)
    count = tl.load(parts + place * _WORDS + 4)
    if count == 0:
        return
    keys, values = layer_pages(addresses, layer, dtype)
    at_head = tl.arange(0, block_heads)
    at_size = tl.arange(0, block_size)
    head = key_head * heads_per_key_head + at_head
    is_head = at_head < heads_per_key_head
    is_size = at_size < size
    is_query = is_head[:, None] & is_size[None, :]
    queries = tl.load(
        query + row * query_row_stride + head[:, None] * query_head_stride + at_size[None, :],
        is_query,
        other=0.0,
    )
    mean, lse = _attend_to_keys(
        queries,
        keys,
        values,
        tables + row * table_stride,
        start,
        end,
        key_head,
        scaling_log2,
        num_key_heads,
        size,
        page_size,
        block_heads,
        block_size,
        block_keys,
        stages,
        dtype,
    )
    if count == 1:
        at = (row * num_heads + head)[:, None] * size + at_size[None, :]
        tl.store(out + at, mean.to(dtype), is_query)
        return
    at = place * num_heads + head
    tl.store(part_lse + at, lse, is_head)
    tl.store(part_mean + at[:, None] * size + at_size[None, :], mean, is_query)
    if not joins:
        return
    # All threads have written before one says so.
    tl.debug_barrier()
    done = num_done + row * num_key_heads + key_head
    if tl.atomic_add(done, 1, sem="acq_rel") < count - 1:
        return
    tl.store(done, 0)
    first_head = key_head * heads_per_key_head
    for one in range(first_head, first_head + heads_per_key_head):
        _join(
            part_mean + ((place - index) * num_heads + one) * size,
            part_lse + (place - index) * num_heads + one,
            out + (row * num_heads + one) * size,
            count,
            num_heads,
            size,
            block_parts,
            block_size,
        )


@triton.jit
def _attend_to_keys(
    queries,
    keys,
    values,
    table,
    start,
    end,
    key_head,
    scaling_log2,
    num_key_heads: tl.constexpr,
    size: tl.constexpr,
    page_size: tl.constexpr,
    block_heads: tl.constexpr,
    block_size: tl.constexpr,
    block_keys: tl.constexpr,
    stages: tl.constexpr,
    dtype: tl.constexpr,
):
    """The mean of values (block_heads, block_size), and the log-sum-exp of scores to base 2."""
    at_block = tl.arange(0, block_keys)
    at_size = tl.arange(0, block_size)
    is_size = at_size < size
    top = tl.full([block_heads], -float("inf"), tl.float32)
    total = tl.zeros([block_heads], tl.float32)
    mean = tl.zeros([block_heads, block_size], tl.float32)
    # One block ahead, since where keys lie must be known before they can be asked for.
    page = tl.load(table + (start + at_block) // page_size, start + at_block < end, other=0)
    for block in tl.range(start, end, block_keys, num_stages=stages):
        at_key = block + at_block
        slot = page.to(tl.int64) * page_size + at_key % page_size
        page = tl.load(
            table + (at_key + block_keys) // page_size, at_key + block_keys < end, other=0
        )
        is_key = at_key < end
        is_real = is_key[:, None] & is_size[None, :]
        at = ((slot * num_key_heads + key_head) * size)[:, None] + at_size[None, :]
        key = tl.load(keys + at, is_real, other=0.0)
        value = tl.load(values + at, is_real, other=0.0)
        score = tl.dot(queries, tl.trans(key), input_precision="ieee") * scaling_log2
        score = tl.where(is_key[None, :], score, -float("inf"))
        new_top = tl.maximum(top, tl.max(score, 1))
        shrink = tl.exp2(top - new_top)
        share = tl.exp2(score - new_top[:, None])
        mean = tl.dot(share.to(dtype), value, mean * shrink[:, None], input_precision="ieee")
        total = total * shrink + tl.sum(share, 1)
        top = new_top
    return mean / total[:, None], top + tl.log2(total)


@triton.jit
def _join(
    part_mean,
    part_lse,
    out,
    count,
    num_heads: tl.constexpr,
    size: tl.constexpr,
    block_parts: tl.constexpr,
    block_size: tl.constexpr,
):
    """Join the parts of one head, each `num_heads` behind the last."""
    at_part = tl.arange(0, block_parts)
    at_size = tl.arange(0, block_size)
    is_size = at_size < size
    top = -float("inf")
    total = 0.0
    mean = tl.zeros([block_size], tl.float32)
    for block in range(0, count, block_parts):
        is_part = block + at_part < count
        at = (block + at_part) * num_heads
        # From the L2 cache, which other multiprocessors write to.
        lse = tl.load(part_lse + at, is_part, other=-float("inf"), cache_modifier=".cg")
        means = tl.load(
            part_mean + at[:, None] * size + at_size[None, :],
            is_part[:, None] & is_size[None, :],
            other=0.0,
            cache_modifier=".cg",
        )
        new_top = tl.maximum(top, tl.max(lse, 0))
        weight = tl.exp2(lse - new_top)
        shrink = tl.exp2(top - new_top)
        mean = mean * shrink + tl.sum(means * weight[:, None], 0)
        total = total * shrink + tl.sum(weight, 0)
        top = new_top
    tl.store(out + at_size, (mean / total).to(out.dtype.element_ty), is_size)


@triton.jit
def _join_row(
    part_mean,
    part_lse,
    ranges,
    out,
    num_heads: tl.constexpr,
    size: tl.constexpr,
    block_parts: tl.constexpr,
    block_size: tl.constexpr,
    overlaps: tl.constexpr,
):
    if overlaps:
        wait_for_last()
    row, head = tl.program_id(0), tl.program_id(1)
    first = tl.load(ranges + 2 * row)
    count = tl.load(ranges + 2 * row + 1)
    if count > 1:
        _join(
            part_mean + (first * num_heads + head) * size,
            part_lse + first * num_heads + head,
            out + (row * num_heads + head) * size,
            count,
            num_heads,
            size,
            block_parts,
            block_size,
        )
