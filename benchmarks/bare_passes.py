"""Passes of our engine that tell no log-probabilities, to see what these cost.

No run has such passes: training needs the log-probabilities, and each call's stand in its record.
"""

import contextlib
from collections.abc import Iterator

import torch

from astuner.engine import decode_graphs
from astuner.engine.decode_graphs import DecodeGraphs, DecodePass, Mode
from astuner.engine.token_chooser import draw


class BareGraphs(DecodeGraphs):
    """Samples at temperature 1 from all tokens; every log-probability is 0."""

    def _pass(self, size: int, mode: Mode) -> None:
        assert mode == "plain"
        ids, positions, slots = self._integers.tensor[:, :size]
        lengths = (positions + 1).int()
        decode_pass = DecodePass(slots, self._tables.tensor[:size], lengths, self._cache)
        logits = self._compute_logits(ids, positions, decode_pass)
        probs = torch.softmax(logits, -1, dtype=torch.float32)
        self._chosen[0, :size] = draw(probs, self._floats.tensor[1, :size])


@contextlib.contextmanager
def bare_passes() -> Iterator[None]:
    """Engines that are made inside have them."""
    decode_graphs.DecodeGraphs = BareGraphs
    try:
        yield
    finally:
        decode_graphs.DecodeGraphs = DecodeGraphs
