"""Triton kernels for log-probabilities and entropies of rows of logits, in one pass over memory.

Shapes: N rows, V vocabulary.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

_COLUMNS_AT_ONCE = 4096


def score_rows(
    logits_NV: Tensor, target_N: Tensor, temperature_N: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """log softmax(logits / temperature)[target], entropy and log-sum-exp of each row, float32."""
    logprob_N, entropy_N, lse_N = (torch.empty_like(temperature_N) for _ in range(3))
    _score[(len(logits_NV),)](
        logits_NV,
        target_N,
        temperature_N,
        logprob_N,
        entropy_N,
        lse_N,
        logits_NV.stride(0),
        logits_NV.shape[1],
        block=_COLUMNS_AT_ONCE,
        num_warps=8,
    )
    return logprob_N, entropy_N, lse_N


def score_gradient(
    logits_NV: Tensor, target_N: Tensor, temperature_N: Tensor, lse_N: Tensor, slope_N: Tensor
) -> Tensor:
    """The gradient of the logits, where `slope_N` is that of the log-probabilities."""
    gradient_NV = torch.empty_like(logits_NV)
    _differentiate[(len(logits_NV),)](
        logits_NV,
        target_N,
        temperature_N,
        lse_N,
        slope_N,
        gradient_NV,
        logits_NV.stride(0),
        gradient_NV.stride(0),
        logits_NV.shape[1],
        block=_COLUMNS_AT_ONCE,
        num_warps=8,
    )
    return gradient_NV


@triton.jit
def _score(
    logits,
    targets,
    temperatures,
    logprobs,
    entropies,
    lses,
    row_stride,
    num_columns,
    block: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    scale = 1.0 / tl.load(temperatures + row)
    top = -float("inf")
    total = 0.0
    weighted = 0.0
    for start in range(0, num_columns, block):
        at = start + tl.arange(0, block)
        score = tl.load(logits + row * row_stride + at, at < num_columns, other=-float("inf"))
        score = score.to(tl.float32) * scale
        new_top = tl.maximum(top, tl.max(score, 0))
        shrink = tl.exp(top - new_top)
        share = tl.exp(score - new_top)
        total = total * shrink + tl.sum(share, 0)
        product = tl.where(at < num_columns, share * score, 0.0)
        weighted = weighted * shrink + tl.sum(product, 0)
        top = new_top
    lse = top + tl.log(total)
    target = tl.load(logits + row * row_stride + tl.load(targets + row)).to(tl.float32) * scale
    tl.store(logprobs + row, target - lse)
    tl.store(entropies + row, lse - weighted / total)
    tl.store(lses + row, lse)


@triton.jit
def _differentiate(
    logits,
    targets,
    temperatures,
    lses,
    slopes,
    gradients,
    row_stride,
    gradient_stride,
    num_columns,
    block: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    scale = 1.0 / tl.load(temperatures + row)
    slope = tl.load(slopes + row) * scale
    lse = tl.load(lses + row)
    target = tl.load(targets + row)
    for start in range(0, num_columns, block):
        at = start + tl.arange(0, block)
        score = tl.load(logits + row * row_stride + at, at < num_columns, other=-float("inf"))
        share = tl.exp(score.to(tl.float32) * scale - lse)
        gradient = slope * (tl.where(at == target, 1.0, 0.0) - share)
        place = gradients + row * gradient_stride + at
        tl.store(place, gradient.to(gradients.dtype.element_ty), at < num_columns)
