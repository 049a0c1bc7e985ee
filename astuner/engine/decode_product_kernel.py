"""Triton kernels for the products of a layer, each with what stands before and behind it.

A pass of few rows is short kernels, whose launches and first reads take longer than their work. So
a norm is part of the product that reads it, and so are rotation and the writing to pages, the gate,
and the sum of the product that they follow: a layer is four kernels and its attention. On GPUs that
can, a kernel starts while the one before it ends (programmatic dependent launch, NVIDIA's CUDA
programming guide), and asks for its weights meanwhile.

Sums are rounded where transformers' own layers round them, but for the norm: its factor is applied
behind the product, in float32.

Shapes: N rows, E hidden size, H query heads, G key heads, D head size, I size between the products
of the gated layer, P positions.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from astuner.engine.decode_kernel import TRITON_DTYPES, layer_pages, overlap, wait_for_last
from astuner.engine.decode_layer_kernel import HeadNorms, rotate

_LINE = tl.constexpr(64)
"""Numbers of two bytes in a line of the L2 cache."""


def read_heads(
    stream: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    norm: Tensor,
    eps: float,
    turns: Tensor,
    positions: Tensor,
    addresses: Tensor,
    slots: Tensor,
    *,
    layer: int,
    num_heads: int,
    num_key_heads: int,
    norms: HeadNorms | None,
) -> Tensor:
    """Queries (N, H, D), rotated, of the normalized `stream` (N, E); its rotated keys and its values
    are written to `slots` (N) int64 of the layer.

    `weight` ((H + 2 G) D, E) and `bias` are those of queries, keys and values behind each other,
    `norm` (E) is the weight of the norm; the rest is as in
    `decode_layer_kernel.rotate_and_write`.
    """
    num_rows, size = stream.shape
    num_all_heads = num_heads + 2 * num_key_heads
    head_size = len(weight) // num_all_heads
    half = head_size // 2
    tile = _tile(num_rows, num_all_heads * half, half, size, whole=half if norms else None)
    query = stream.new_empty((num_rows, num_heads, head_size))
    num_blocks = half // tile.columns
    _read_heads[(triton.cdiv(num_rows, tile.rows), num_all_heads * num_blocks)](
        stream,
        weight,
        weight if bias is None else bias,
        norm,
        turns,
        positions,
        addresses,
        slots,
        turns if norms is None else norms.query,
        turns if norms is None else norms.key,
        query,
        layer,
        num_rows,
        eps,
        0.0 if norms is None else norms.eps,
        has_bias=bias is not None,
        normalizes=norms is not None,
        num_heads=num_heads,
        num_key_heads=num_key_heads,
        head_size=head_size,
        half=half,
        num_blocks=num_blocks,
        size=size,
        dtype=TRITON_DTYPES[stream.dtype],
        **tile.arguments(stream.device),
    )
    return query


def widen(stream: Tensor, weight: Tensor, bias: Tensor | None, norm: Tensor, eps: float) -> Tensor:
    """silu(gate) * value (N, I) of the normalized `stream` (N, E), for `weight` (2 I, E) of gates
    and, behind them, of values (N. Shazeer 2020, https://arxiv.org/abs/2002.05202)."""
    num_rows, size = stream.shape
    num_gates = len(weight) // 2
    tile = _tile(num_rows, num_gates, num_gates, size)
    gated = stream.new_empty((num_rows, num_gates))
    _widen[(triton.cdiv(num_rows, tile.rows), num_gates // tile.columns)](
        stream,
        weight,
        weight if bias is None else bias,
        norm,
        gated,
        num_rows,
        eps,
        has_bias=bias is not None,
        num_gates=num_gates,
        size=size,
        **tile.arguments(stream.device),
    )
    return gated


def add_product(stream: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    """Add x (N, K) times `weight` (E, K) to `stream` (N, E), in place."""
    num_rows, num_columns = stream.shape
    size = weight.shape[1]
    tile = _tile(num_rows, num_columns, num_columns, size)
    _add_product[(triton.cdiv(num_rows, tile.rows), num_columns // tile.columns)](
        stream,
        x,
        weight,
        weight if bias is None else bias,
        num_rows,
        has_bias=bias is not None,
        num_columns=num_columns,
        size=size,
        **tile.arguments(stream.device),
    )


def can_be_tiled(weight: Tensor, *, columns: int) -> bool:
    """Whether `weight` is read in whole blocks, of which each is of one of these columns."""
    is_plain = weight.is_contiguous() and weight.dtype is torch.bfloat16
    return is_plain and columns % 16 == 0 and weight.shape[1] % 32 == 0


@dataclass(frozen=True, slots=True)
class _Tile:
    """Of a result, and the numbers of a row that are multiplied at a time."""

    rows: int
    columns: int
    depth: int

    def arguments(self, device: torch.device) -> dict[str, int | bool]:
        """Of the kernels."""
        return {
            "block_rows": self.rows,
            "block_columns": self.columns,
            "block_size": self.depth,
            "stages": 4,
            "num_warps": 4,
            **overlap(device),
        }


def _tile(
    num_rows: int, num_columns: int, of_one: int, size: int, *, whole: int | None = None
) -> _Tile:
    rows = 16 if num_rows <= 16 else 32 if num_rows <= 32 else 64
    depth = next(depth for depth in (128, 64, 32) if size % depth == 0)
    if whole is not None:
        return _Tile(rows, whole, depth)
    fitting = [columns for columns in (64, 32, 16) if of_one % columns == 0]
    num_tiles = {
        columns: triton.cdiv(num_rows, rows) * (num_columns // columns) for columns in fitting
    }
    enough = [columns for columns in fitting if num_tiles[columns] >= 100]
    return _Tile(rows, enough[0] if enough else fitting[-1], depth)


@triton.jit(do_not_specialize=["layer", "num_rows"])
def _read_heads(
    stream,
    weight,
    bias,
    norm,
    turns,
    positions,
    addresses,
    slots,
    query_norm,
    key_norm,
    query,
    layer,
    num_rows,
    eps,
    head_eps,
    has_bias: tl.constexpr,
    normalizes: tl.constexpr,
    num_heads: tl.constexpr,
    num_key_heads: tl.constexpr,
    head_size: tl.constexpr,
    half: tl.constexpr,
    num_blocks: tl.constexpr,
    size: tl.constexpr,
    dtype: tl.constexpr,
    block_rows: tl.constexpr,
    block_columns: tl.constexpr,
    block_size: tl.constexpr,
    stages: tl.constexpr,
    overlaps: tl.constexpr,
):
    """Each program computes a block of the first half of one head, and the same of its second."""
    row = tl.program_id(0) * block_rows + tl.arange(0, block_rows)
    is_row = (row < num_rows)[:, None]
    head, block = tl.program_id(1) // num_blocks, tl.program_id(1) % num_blocks
    at = block * block_columns + tl.arange(0, block_columns)
    left, right = _normed_products(
        stream,
        norm,
        weight,
        bias,
        head * head_size + at,
        head * head_size + half + at,
        row,
        is_row,
        eps,
        has_bias,
        size,
        block_rows,
        block_columns,
        block_size,
        stages,
        overlaps,
    )
    left, right = left.to(dtype), right.to(dtype)
    if head < num_heads + num_key_heads:
        place = tl.load(positions + row, row < num_rows, other=0)
        turn = turns + (place * 2 * head_size)[:, None] + at[None, :]
        own_norm = query_norm if head < num_heads else key_norm
        left, right = rotate(
            left.to(tl.float32),
            right.to(tl.float32),
            own_norm + at[None, :],
            turn,
            (at < half)[None, :],
            head_eps,
            normalizes,
            head_size,
            half,
            dtype,
        )
    if head < num_heads:
        place = query + ((row.to(tl.int64) * num_heads + head) * head_size)[:, None] + at[None, :]
    else:
        key_head = (head - num_heads) % num_key_heads
        slot = tl.load(slots + row, row < num_rows, other=0)
        keys, values = layer_pages(addresses, layer, dtype)
        pages = keys if head < num_heads + num_key_heads else values
        place = pages + ((slot * num_key_heads + key_head) * head_size)[:, None] + at[None, :]
    tl.store(place, left, is_row)
    tl.store(place + half, right, is_row)


@triton.jit(do_not_specialize=["num_rows"])
def _widen(
    stream,
    weight,
    bias,
    norm,
    gated,
    num_rows,
    eps,
    has_bias: tl.constexpr,
    num_gates: tl.constexpr,
    size: tl.constexpr,
    block_rows: tl.constexpr,
    block_columns: tl.constexpr,
    block_size: tl.constexpr,
    stages: tl.constexpr,
    overlaps: tl.constexpr,
):
    row = tl.program_id(0) * block_rows + tl.arange(0, block_rows)
    is_row = (row < num_rows)[:, None]
    at = tl.program_id(1) * block_columns + tl.arange(0, block_columns)
    gates, values = _normed_products(
        stream,
        norm,
        weight,
        bias,
        at,
        num_gates + at,
        row,
        is_row,
        eps,
        has_bias,
        size,
        block_rows,
        block_columns,
        block_size,
        stages,
        overlaps,
    )
    dtype = gated.dtype.element_ty
    opened = (gates * tl.sigmoid(gates)).to(dtype).to(tl.float32)
    place = gated + (row.to(tl.int64) * num_gates)[:, None] + at[None, :]
    tl.store(place, (opened * values).to(dtype), is_row)


@triton.jit
def _normed_products(
    stream,
    norm,
    weight,
    bias,
    left_column,
    right_column,
    row,
    is_row,
    eps,
    has_bias: tl.constexpr,
    size: tl.constexpr,
    block_rows: tl.constexpr,
    block_columns: tl.constexpr,
    block_size: tl.constexpr,
    stages: tl.constexpr,
    overlaps: tl.constexpr,
):
    """Two blocks (rows, columns) of the product of normalized rows with the weights, each number
    rounded, as float32."""
    if overlaps:
        _ask_for(weight, left_column, size)
        _ask_for(weight, right_column, size)
        wait_for_last()
    at = tl.arange(0, block_size)
    rows = stream + row.to(tl.int64)[:, None] * size + at[None, :]
    lefts = weight + left_column.to(tl.int64)[:, None] * size + at[None, :]
    rights = weight + right_column.to(tl.int64)[:, None] * size + at[None, :]
    dtype = stream.dtype.element_ty
    left = tl.zeros([block_rows, block_columns], tl.float32)
    right = tl.zeros([block_rows, block_columns], tl.float32)
    squares = tl.zeros([block_rows, block_size], tl.float32)
    for start in tl.range(0, size, block_size, num_stages=stages):
        x = tl.load(rows + start, is_row, other=0.0).to(tl.float32)
        scale = tl.load(norm + start + at).to(tl.float32)
        squares += x * x
        x = (x * scale[None, :]).to(dtype)
        left = tl.dot(x, tl.trans(tl.load(lefts + start)), left)
        right = tl.dot(x, tl.trans(tl.load(rights + start)), right)
    factor = tl.rsqrt(tl.sum(squares, 1) / size + eps)[:, None]
    left *= factor
    right *= factor
    if has_bias:
        left += tl.load(bias + left_column).to(tl.float32)[None, :]
        right += tl.load(bias + right_column).to(tl.float32)[None, :]
    return left.to(dtype).to(tl.float32), right.to(dtype).to(tl.float32)


@triton.jit(do_not_specialize=["num_rows"])
def _add_product(
    stream,
    x,
    weight,
    bias,
    num_rows,
    has_bias: tl.constexpr,
    num_columns: tl.constexpr,
    size: tl.constexpr,
    block_rows: tl.constexpr,
    block_columns: tl.constexpr,
    block_size: tl.constexpr,
    stages: tl.constexpr,
    overlaps: tl.constexpr,
):
    row = tl.program_id(0) * block_rows + tl.arange(0, block_rows)
    is_row = (row < num_rows)[:, None]
    column = tl.program_id(1) * block_columns + tl.arange(0, block_columns)
    if overlaps:
        _ask_for(weight, column, size)
        wait_for_last()
    at = tl.arange(0, block_size)
    rows = x + row.to(tl.int64)[:, None] * size + at[None, :]
    weights = weight + column.to(tl.int64)[:, None] * size + at[None, :]
    product = tl.zeros([block_rows, block_columns], tl.float32)
    for start in tl.range(0, size, block_size, num_stages=stages):
        new = tl.load(rows + start, is_row, other=0.0)
        product = tl.dot(new, tl.trans(tl.load(weights + start)), product)
    if has_bias:
        product += tl.load(bias + column).to(tl.float32)[None, :]
    dtype = stream.dtype.element_ty
    place = stream + row.to(tl.int64)[:, None] * num_columns + column[None, :]
    total = tl.load(place, is_row, other=0.0).to(tl.float32) + product.to(dtype).to(tl.float32)
    tl.store(place, total.to(dtype), is_row)


@triton.jit
def _ask_for(weight, column, size: tl.constexpr):
    """Have these rows of the weights brought to the L2 cache."""
    num_lines: tl.constexpr = size // _LINE
    block: tl.constexpr = triton.next_power_of_2(num_lines)
    line = tl.arange(0, block)
    place = weight + column.to(tl.int64)[:, None] * size + line[None, :] * _LINE
    place = tl.where((line < num_lines)[None, :], place, weight)
    tl.inline_asm_elementwise(
        "prefetch.global.L2 [$1]; mov.u32 $0, 0;",
        "=r,l",
        [place.to(tl.int64)],
        dtype=tl.int32,
        is_pure=False,
        pack=1,
    )
