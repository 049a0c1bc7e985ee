"""torch's switches as a training step needs them, whatever user code left them at.

A workflow or judge in the main thread shares them: a frozen reward model of its own switches
gradients off, and not always on again. Owns no other state of torch.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def training_switches(device: torch.device) -> Iterator[None]:
    """Inside, gradients are on, and types are float32 unless a tensor says otherwise."""
    earlier = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.autocast(device.type, enabled=False),
        ):
            yield
    finally:
        torch.set_default_dtype(earlier)
