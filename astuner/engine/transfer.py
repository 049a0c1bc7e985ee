"""Numbers on their way between the host and a GPU, which neither waits for.

On a CPU nothing travels, and the same calls give what was put in.
"""

from typing import Any

import torch
from torch import Tensor


def upload(array: Any, device: torch.device) -> Tensor:
    """A tensor of the device with what the array holds, which is the tensor's from here on."""
    tensor = torch.from_numpy(array)
    if device.type != "cuda":
        return tensor.to(device)
    # Pinned memory is kept by torch until the copy is made.
    return tensor.pin_memory().to(device, non_blocking=True)


class Download:
    """A tensor's content at a moment of the GPU's work, to be read when it is needed."""

    def __init__(self, tensor: Tensor) -> None:
        """What the GPU does to the tensor after this moment is not seen."""
        self._arrived: torch.cuda.Event | None = None
        if tensor.is_cuda:
            self._host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._host.copy_(tensor, non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record()
        else:
            self._host = tensor.clone()

    @property
    def has_arrived(self) -> bool:
        """Whether the GPU has done all that came before."""
        return self._arrived is None or self._arrived.query()

    def wait(self) -> Any:
        """As an array; returns when the GPU has done all that came before."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._host.numpy()
