"""Draws of torch that hang on a seed of the run alone, and leave no trace.

Workflows and judges share torch's generators: what they draw or seed changes none of our draws, and
ours change none of theirs.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def seeded_draws(seed: int) -> Iterator[None]:
    """Inside, torch draws from `seed` on; behind it, from where it was before."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed % 2**63)
        yield
