"""A Triton kernel for what a recorded pass has to know of its rows.

Shapes: N rows, P pages of the longest completion.
"""

import triton
import triton.language as tl
from torch import Tensor

_ROWS_AT_ONCE = 128


def describe_rows(
    inputs: Tensor,
    chosen: Tensor,
    tables: Tensor,
    integers: Tensor,
    lengths: Tensor,
    page_size: int,
) -> None:
    """Write ids, positions and slots to `integers` (3, N) int64, and `lengths` (N) int32.

    `inputs` (3, N) int32 holds for each row the column of `chosen` (2, columns) float32 in whose
    first line its token stands, or -1; else the token; and its position. `tables` (N, P) int32
    holds the pages. A slot is where the position's key and value go; a length counts it too.
    """
    num_rows = inputs.shape[1]
    _describe[(triton.cdiv(num_rows, _ROWS_AT_ONCE),)](
        inputs,
        chosen,
        tables,
        integers,
        lengths,
        inputs.stride(0),
        tables.stride(0),
        integers.stride(0),
        num_rows,
        page_size=page_size,
        block=_ROWS_AT_ONCE,
        num_warps=1,
    )


@triton.jit
def _describe(
    inputs,
    chosen,
    tables,
    integers,
    lengths,
    input_stride,
    table_stride,
    integer_stride,
    num_rows,
    page_size: tl.constexpr,
    block: tl.constexpr,
):
    row = tl.program_id(0) * block + tl.arange(0, block)
    is_row = row < num_rows
    column = tl.load(inputs + row, is_row, other=-1)
    token = tl.load(inputs + input_stride + row, is_row, other=0)
    position = tl.load(inputs + 2 * input_stride + row, is_row, other=0)
    sampled = tl.load(chosen + column, is_row & (column >= 0), other=0.0)
    token = tl.where(column >= 0, sampled.to(tl.int32), token)
    page = tl.load(
        tables + row.to(tl.int64) * table_stride + position // page_size, is_row, other=0
    )
    slot = page.to(tl.int64) * page_size + position % page_size
    tl.store(integers + row, token.to(tl.int64), is_row)
    tl.store(integers + integer_stride + row, position.to(tl.int64), is_row)
    tl.store(integers + 2 * integer_stride + row, slot, is_row)
    tl.store(lengths + row, position + 1, is_row)
