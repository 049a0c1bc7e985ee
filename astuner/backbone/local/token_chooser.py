"""Samples one token for each row of logits, with its log-probability.

Shapes: N rows that get a token in one forward pass, V vocabulary.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from astuner.inference.engine import Sampling


class Choice(NamedTuple):
    """One token for each row."""

    ids: Tensor
    """(N)."""
    logprobs: Tensor
    """(N) float32."""


class TokenChooser:
    """Chooses the token at which the cumulative probability of a row passes a uniform draw.

    One random number per row, where torch.multinomial takes V and with them as much time as a
    small model. Its two buffers (N, V) are reused: new memory of their size costs more than the
    arithmetic.
    """

    def __init__(self) -> None:
        self.num_chosen = 0
        self._buffers: list[Tensor] = []

    def choose(
        self, logits: Tensor, *, samplings: Sequence[Sampling], draws: Sequence[float]
    ) -> Choice:
        """logits (N, V), draws in [0, 1). The result follows `ContinuousBatchingEngine.generate`.

        Raises FloatingPointError for logits that are not finite.
        """
        cumulative, probs = self._take_buffers(logits)
        self._compute_probs(logits, samplings, probs, scratch=cumulative)
        torch.cumsum(probs, -1, out=cumulative)
        total = cumulative[:, -1:]
        target = total * torch.tensor(draws, device=logits.device, dtype=total.dtype)[:, None]
        # Rounded up to the total, a draw would fall behind the last token.
        target = torch.minimum(target, torch.nextafter(total, torch.zeros_like(total)))
        ids = torch.searchsorted(cumulative, target, right=True)
        greedy = [i for i, sampling in enumerate(samplings) if sampling.temperature == 0]
        if greedy:
            ids[greedy] = logits[greedy].argmax(-1, keepdim=True)
        logprobs = probs.gather(-1, ids.clamp_(max=probs.shape[-1] - 1)).log()
        if not bool(logprobs.isfinite().all()):
            raise FloatingPointError("the model's logits are not finite; its weights diverged")
        self.num_chosen += len(logprobs)
        return Choice(ids[:, 0], logprobs[:, 0])

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
