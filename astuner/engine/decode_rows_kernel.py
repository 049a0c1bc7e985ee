"""Triton kernels for what recorded passes have to know of their rows, and for what they found.

Shapes: N rows, P pages of the longest completion, S passes begun at once.
"""

import triton
import triton.language as tl
from torch import Tensor

_ROWS_AT_ONCE = 128


def describe_rows(
    inputs: Tensor,
    draws: Tensor,
    step: Tensor,
    chosen: Tensor,
    tables: Tensor,
    integers: Tensor,
    lengths: Tensor,
    draw: Tensor,
    *,
    page_size: int,
    spare_page: int,
) -> None:
    """Write ids, positions and slots to `integers` (3, N) int64, `lengths` (N) int32 and `draw` (N)
    float32, for pass number `step` (1) int32 of those that were begun at once.

    `inputs` (4, N) int32 holds for each row the column of `chosen` (2, columns) float32 in whose
    first line its token stands, or -1; else the token; its position; and in how many passes it
    goes on: in each behind the first with the token that it got. `draws` is (S, N) float32, and
    `tables` (N, P) int32 holds the pages. A slot is where the position's key and value go, in the
    spare page for a row that goes on no more; a length counts it too.
    """
    num_rows = inputs.shape[1]
    _describe[(triton.cdiv(num_rows, _ROWS_AT_ONCE),)](
        inputs,
        draws,
        step,
        chosen,
        tables,
        integers,
        lengths,
        draw,
        inputs.stride(0),
        draws.stride(0),
        tables.stride(0),
        integers.stride(0),
        num_rows,
        page_size=page_size,
        spare_slot=spare_page * page_size,
        block=_ROWS_AT_ONCE,
        num_warps=1,
    )


def note_chosen(
    ids: Tensor, logprobs: Tensor, inputs: Tensor, step: Tensor, chosen: Tensor, found: Tensor
) -> None:
    """Write ids (N) int64 and log-probabilities (N) float32 to those of pass number `step` in
    `found` (S, 2, columns), and of rows that go on in it to `chosen` (2, columns), all float32.

    `inputs` are those of `describe_rows`. What a row got last stays in `chosen` while others go on.
    """
    num_rows = len(ids)
    _note[(triton.cdiv(num_rows, _ROWS_AT_ONCE),)](
        ids,
        logprobs,
        inputs,
        step,
        chosen,
        found,
        inputs.stride(0),
        chosen.stride(0),
        found.stride(0),
        num_rows,
        block=_ROWS_AT_ONCE,
        num_warps=1,
    )


@triton.jit(do_not_specialize=["num_rows"])
def _describe(
    inputs,
    draws,
    step,
    chosen,
    tables,
    integers,
    lengths,
    draw,
    input_stride,
    draw_stride,
    table_stride,
    integer_stride,
    num_rows,
    page_size: tl.constexpr,
    spare_slot: tl.constexpr,
    block: tl.constexpr,
):
    row = tl.program_id(0) * block + tl.arange(0, block)
    is_row = row < num_rows
    at = tl.load(step)
    column = tl.load(inputs + row, is_row, other=-1)
    token = tl.load(inputs + input_stride + row, is_row, other=0)
    position = tl.load(inputs + 2 * input_stride + row, is_row, other=0)
    goes_on = _goes_on(inputs, input_stride, row, is_row, at)
    column = tl.where(at == 0, column, row)
    position = tl.where(goes_on, position + at, 0)
    sampled = tl.load(chosen + column, is_row & (column >= 0) & goes_on, other=0.0)
    token = tl.where(column >= 0, sampled.to(tl.int32), token)
    page = tl.load(
        tables + row.to(tl.int64) * table_stride + position // page_size, is_row, other=0
    )
    slot = page.to(tl.int64) * page_size + position % page_size
    tl.store(integers + row, token.to(tl.int64), is_row)
    tl.store(integers + integer_stride + row, position.to(tl.int64), is_row)
    tl.store(integers + 2 * integer_stride + row, tl.where(goes_on, slot, spare_slot), is_row)
    tl.store(lengths + row, position + 1, is_row)
    tl.store(draw + row, tl.load(draws + at * draw_stride + row, is_row, other=0.0), is_row)


@triton.jit(do_not_specialize=["num_rows"])
def _note(
    ids,
    logprobs,
    inputs,
    step,
    chosen,
    found,
    input_stride,
    chosen_stride,
    found_stride,
    num_rows,
    block: tl.constexpr,
):
    row = tl.program_id(0) * block + tl.arange(0, block)
    is_row = row < num_rows
    at = tl.load(step)
    goes_on = _goes_on(inputs, input_stride, row, is_row, at)
    place = found + at * found_stride + row
    token = tl.load(ids + row, is_row, other=0).to(tl.float32)
    logprob = tl.load(logprobs + row, is_row, other=0.0)
    tl.store(place, token, is_row)
    tl.store(place + chosen_stride, logprob, is_row)
    tl.store(chosen + row, token, is_row & goes_on)
    tl.store(chosen + chosen_stride + row, logprob, is_row & goes_on)


@triton.jit
def _goes_on(inputs, input_stride, row, is_row, at):
    """Whether rows are in pass number `at`: in the first, all are."""
    return (at == 0) | (at < tl.load(inputs + 3 * input_stride + row, is_row, other=0))
