"""Samples one token for each row of logits, with its log-probability.

Shapes: N rows that get a token in one forward pass, V vocabulary.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy
import torch
from torch import Tensor

from astuner.engine.protocol import Sampling
from astuner.engine.transfer import upload
from astuner.types import TopLogprobs


class Choice(NamedTuple):
    """One token for each row."""

    ids: Tensor
    """(N)."""
    logprobs: Tensor
    """(N) float32."""
    tops: list[TopLogprobs]
    """For each row, as many as its sampling asks for."""


class TokenChooser:
    """Chooses the token at which the cumulative probability of a row passes a uniform draw.

    One random number per row, where torch.multinomial takes V and with them as much time as a
    small model. Its two buffers (N, V) are reused: new memory of their size costs more than the
    arithmetic.
    """

    def __init__(self, has_kernel: bool = False) -> None:
        """`has_kernel`: whether `sample_kernel.py` runs where the logits are."""
        self._has_kernel = has_kernel
        self._buffers: list[Tensor] = []

    def choose(
        self, logits: Tensor, *, samplings: Sequence[Sampling], draws: Sequence[float]
    ) -> Choice:
        """logits (N, V), draws in [0, 1). The result follows `ContinuousBatchingEngine.generate`.

        Logits that are not finite give log-probabilities that are not.
        """
        if self._has_kernel and not any(is_exact(sampling) for sampling in samplings):
            return _choose_on_gpu(logits, samplings, draws)
        cumulative, probs = self._take_buffers(logits)
        self._compute_probs(logits, samplings, probs, scratch=cumulative)
        greedy = [i for i, sampling in enumerate(samplings) if sampling.temperature == 0]
        if len(greedy) == len(samplings):
            ids = logits.argmax(-1)
        else:
            draw_N = torch.tensor(draws, device=logits.device, dtype=torch.float32)
            ids = draw(probs, draw_N, scratch=cumulative)
            if greedy:
                ids[greedy] = logits[greedy].argmax(-1)
        logprobs = probs.gather(-1, ids[:, None])[:, 0].log()
        return Choice(ids, logprobs, _tops(probs, samplings))

    def _take_buffers(self, logits: Tensor) -> list[Tensor]:
        num_rows = logits.shape[0]
        if not self._buffers or self._buffers[0].shape[0] < num_rows:
            self._buffers = [torch.empty_like(logits, dtype=torch.float32) for _ in range(2)]
        return [buffer[:num_rows] for buffer in self._buffers]

    def _compute_probs(
        self, logits: Tensor, samplings: Sequence[Sampling], probs: Tensor, *, scratch: Tensor
    ) -> None:
        if any(sampling.temperature not in (0, 1) for sampling in samplings):
            factors = [1 / (sampling.temperature or 1) for sampling in samplings]
            factors = torch.tensor(factors, device=logits.device)[:, None]
            logits = torch.mul(logits, factors, out=scratch)
        torch.softmax(logits, -1, dtype=torch.float32, out=probs)
        truncated = [
            i
            for i, sampling in enumerate(samplings)
            if sampling.temperature and (sampling.top_k > 0 or sampling.top_p < 1)
        ]
        if truncated:
            probs[truncated] = _truncate(probs[truncated], [samplings[i] for i in truncated])


def is_exact(sampling: Sampling) -> bool:
    """Whether it needs the probabilities of all tokens beside each other."""
    is_cut = sampling.temperature > 0 and (sampling.top_k > 0 or sampling.top_p < 1)
    return is_cut or sampling.num_top_logprobs > 0


def _choose_on_gpu(logits: Tensor, samplings: Sequence[Sampling], draws: Sequence[float]) -> Choice:
    # Triton, which it needs, comes with the CUDA builds of torch only.
    from astuner.engine.sample_kernel import sample_rows

    inverse = [sampling.temperature and 1 / sampling.temperature for sampling in samplings]
    floats = upload(numpy.array([inverse, draws], dtype=numpy.float32), logits.device)
    return Choice(*sample_rows(logits, *floats), [()] * len(samplings))


def _tops(probs: Tensor, samplings: Sequence[Sampling]) -> list[TopLogprobs]:
    most = max((sampling.num_top_logprobs for sampling in samplings), default=0)
    if most == 0:
        return [()] * len(samplings)
    values, ids = probs.topk(min(most, probs.shape[-1]), dim=-1)
    rows = zip(samplings, ids.tolist(), values.log().tolist(), strict=True)
    return [tuple(zip(row, logs, strict=True))[: s.num_top_logprobs] for s, row, logs in rows]


def draw(probs: Tensor, draw_N: Tensor, *, scratch: Tensor | None = None) -> Tensor:
    """Ids (N) at which the running sums of probs (N, V) pass the draws, in [0, 1).

    `scratch` (N, V) float32 is overwritten.
    """
    cumulative = torch.cumsum(probs, -1, out=scratch)
    total = cumulative[:, -1:]
    target = total * draw_N[:, None]
    # Rounded up to the total, a draw would fall behind the last token.
    target = torch.minimum(target, torch.nextafter(total, torch.zeros_like(total)))
    ids = torch.searchsorted(cumulative, target, right=True)
    return ids[:, 0].clamp_(max=probs.shape[-1] - 1)


def _truncate(probs: Tensor, samplings: Sequence[Sampling]) -> Tensor:
    """Keep the top_k most probable tokens, of these the fewest that make up top_p; renormalize."""
    num_tokens = probs.shape[-1]
    top_k = [sampling.top_k if sampling.top_k > 0 else num_tokens for sampling in samplings]
    top_p = [sampling.top_p for sampling in samplings]
    descending, order = probs.sort(-1, descending=True)
    rank = torch.arange(num_tokens, device=probs.device)
    descending[rank >= torch.tensor(top_k, device=probs.device)[:, None]] = 0
    descending /= descending.sum(-1, keepdim=True)
    before = descending.cumsum(-1) - descending
    is_dropped = before >= torch.tensor(top_p, device=probs.device)[:, None]
    is_dropped[:, 0] = False
    descending[is_dropped] = 0
    descending /= descending.sum(-1, keepdim=True)
    return torch.empty_like(probs).scatter_(-1, order, descending)
