"""Triton kernels that draw one token for each row of logits, in one pass over memory.

Each row is cut into chunks. A first kernel sums each chunk; a second picks the chunk at which the
running sum of a row passes its draw, reads that one again, and picks the token in it.

Running sums are of integers: those of floats, which a GPU adds in no fixed order, may rise at a
token that has next to no probability, which then were drawn once in some million tokens.

Shapes: N rows, V vocabulary, C chunks.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

_CHUNK = 2048
_SUM_WARPS = 2
_PICK_WARPS = 4
"""On an H200 within a tenth of the fastest, from 1 to 1024 rows."""
_LOG2_E = tl.constexpr(1.4426950408889634)
_ONE = tl.constexpr(2.0**40)
"""What 1 is as an integer: 64 bits hold the sum of eight million of them."""


def sample_rows(
    logits_NV: Tensor, inverse_temperature_N: Tensor, draw_N: Tensor
) -> tuple[Tensor, Tensor]:
    """Ids (N) int64 at which the running sums of softmax(logits / temperature) pass the draws.

    An inverse temperature of 0 takes the most probable token, the first among equals. Draws lie in
    [0, 1], as numbers below 1 do once rounded to float32. Returns the log-probabilities (N) float32
    too, those of a most probable token at temperature 1; they are not finite where a logit is NaN
    or positive infinity, or none is finite.
    """
    return _sample_rows(
        logits_NV,
        inverse_temperature_N,
        draw_N,
        chunk=min(_CHUNK, triton.next_power_of_2(logits_NV.shape[1])),
        sum_warps=_SUM_WARPS,
        pick_warps=_PICK_WARPS,
    )


def _sample_rows(
    logits_NV: Tensor,
    inverse_temperature_N: Tensor,
    draw_N: Tensor,
    *,
    chunk: int,
    sum_warps: int,
    pick_warps: int,
) -> tuple[Tensor, Tensor]:
    num_rows, num_columns = logits_NV.shape
    num_chunks = triton.cdiv(num_columns, chunk)
    device = logits_NV.device
    top_NC, sum_NC = torch.empty((2, num_rows, num_chunks), dtype=torch.float32, device=device)
    id_N = torch.empty(num_rows, dtype=torch.int64, device=device)
    logprob_N = torch.empty(num_rows, dtype=torch.float32, device=device)
    _sum_chunks[(num_chunks, num_rows)](
        logits_NV,
        inverse_temperature_N,
        top_NC,
        sum_NC,
        logits_NV.stride(0),
        num_columns,
        num_chunks,
        chunk_size=chunk,
        num_warps=sum_warps,
    )
    _pick[(num_rows,)](
        logits_NV,
        inverse_temperature_N,
        draw_N,
        top_NC,
        sum_NC,
        id_N,
        logprob_N,
        logits_NV.stride(0),
        num_columns,
        num_chunks,
        chunk_size=chunk,
        block_chunks=triton.next_power_of_2(num_chunks),
        num_warps=pick_warps,
    )
    return id_N, logprob_N


@triton.jit
def _sum_chunks(
    logits,
    inverses,
    tops,
    sums,
    row_stride,
    num_columns,
    num_chunks,
    chunk_size: tl.constexpr,
):
    chunk, row = tl.program_id(0), tl.program_id(1)
    inverse = tl.load(inverses + row)
    inverse = tl.where(inverse == 0, 1.0, inverse)
    at = chunk * chunk_size + tl.arange(0, chunk_size)
    place = logits + row.to(tl.int64) * row_stride + at
    value = tl.load(place, at < num_columns, other=-float("inf")).to(tl.float32)
    top = tl.max(value, 0)
    # Of a chunk without any probability, the sum is 0.
    base = tl.where(top == -float("inf"), 0.0, top)
    share = tl.exp2((value - base) * (inverse * _LOG2_E))
    tl.store(tops + row * num_chunks + chunk, top)
    tl.store(sums + row * num_chunks + chunk, tl.sum(share, 0))


@triton.jit
def _pick(
    logits,
    inverses,
    draws,
    tops,
    sums,
    ids,
    logprobs,
    row_stride,
    num_columns,
    num_chunks,
    chunk_size: tl.constexpr,
    block_chunks: tl.constexpr,
):
    row = tl.program_id(0)
    logits += row.to(tl.int64) * row_stride
    inverse = tl.load(inverses + row)
    is_greedy = inverse == 0
    inverse = tl.where(is_greedy, 1.0, inverse)
    at_chunk = tl.arange(0, block_chunks)
    is_chunk = at_chunk < num_chunks
    place = row * num_chunks + at_chunk
    chunk_top = tl.load(tops + place, is_chunk, other=-float("inf"))
    chunk_sum = tl.load(sums + place, is_chunk, other=0.0)
    top = tl.max(chunk_top, 0)
    share = chunk_sum * tl.exp2((chunk_top - top) * (inverse * _LOG2_E))
    total = tl.sum(share, 0)

    fraction = tl.load(draws + row).to(tl.float64)
    if is_greedy:
        chunk = tl.min(tl.where(chunk_top == top, at_chunk, block_chunks), 0)
    else:
        chunk, fraction = _pass_fraction(share, at_chunk, fraction)
    # Of logits that are not finite, any token will do.
    chunk = tl.minimum(chunk, num_chunks - 1)

    at = chunk * chunk_size + tl.arange(0, chunk_size)
    value = tl.load(logits + at, at < num_columns, other=-float("inf")).to(tl.float32)
    if is_greedy:
        token = tl.min(tl.where(value == top, at, num_columns), 0)
    else:
        base = tl.load(tops + row * num_chunks + chunk)
        share_in_chunk = tl.exp2((value - base) * (inverse * _LOG2_E))
        token, fraction = _pass_fraction(share_in_chunk, at, fraction)
    token = tl.minimum(token, num_columns - 1)
    logprob = (tl.load(logits + token).to(tl.float32) - top) * inverse - tl.log(total)
    tl.store(ids + row, token.to(tl.int64))
    tl.store(logprobs + row, logprob)


@triton.jit
def _pass_fraction(share, at, fraction):
    """Where the running sum passes a fraction of the sum, and at what fraction of that share.

    `at` are the indices of the shares, one after the other.
    """
    share = (share * _ONE).to(tl.int64)
    running = tl.cumsum(share, 0)
    total = tl.sum(share, 0)
    target = tl.minimum((total.to(tl.float64) * fraction).to(tl.int64), total - 1)
    found = tl.min(tl.where(running > target, at, 2**31 - 1), 0)
    own = tl.sum(tl.where(at == found, share, 0), 0)
    before = tl.sum(tl.where(at == found, running, 0), 0) - own
    return found, (target - before).to(tl.float64) / own.to(tl.float64)
