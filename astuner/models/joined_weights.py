"""Several layers of the same input as one matrix product, without a second copy of their weights.

The weights become views of one tensor, behind each other; whoever trains, saves or loads a layer
goes on doing so, as long as it writes in place. Shapes: E size of the input.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def can_be_joined(layers: Sequence[nn.Module]) -> bool:
    """Whether they are plain layers, without an adapter, and alike but for the sizes of outputs."""
    if any(type(layer) is not nn.Linear for layer in layers):
        return False
    kinds = {
        (layer.in_features, layer.weight.dtype, layer.weight.device, layer.bias is None)
        for layer in layers
        if isinstance(layer, nn.Linear)
    }
    return len(kinds) == 1


class JoinedLayers:
    """y = W x + b for all of them; the outputs stand behind each other."""

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        """Raises ValueError for layers that `can_be_joined` refuses."""
        if not can_be_joined(layers):
            raise ValueError("only plain layers of one input and type can be joined")
        self.sizes = [layer.out_features for layer in layers]
        self._weights = [layer.weight for layer in layers]
        self._biases = [layer.bias for layer in layers if layer.bias is not None]
        self._weight = _joined(self._weights)
        self._bias = _joined(self._biases) if self._biases else None

    @property
    def is_current(self) -> bool:
        """Whether the layers' weights are still where they were joined."""
        pairs = [(self._weights, self._weight), (self._biases, self._bias)]
        return all(
            _lie_together(parts) and parts[0].data_ptr() == joined.data_ptr()
            for parts, joined in pairs
            if joined is not None
        )

    def __call__(self, x: Tensor) -> tuple[Tensor, ...]:
        """From (N, E) to one (N, size) of each layer."""
        return nn.functional.linear(x, self._weight, self._bias).split(self.sizes, dim=-1)


@torch.no_grad()
def _joined(parts: Sequence[Tensor]) -> Tensor:
    """One tensor that shares its memory with all of them, which are moved unless they lie so."""
    if not _lie_together(parts):
        views = torch.cat([part.data for part in parts]).split([len(part) for part in parts])
        for part, view in zip(parts, views, strict=True):
            part.data = view
    first = parts[0].data
    num_rows = sum(len(part) for part in parts)
    return first.as_strided((num_rows, *first.shape[1:]), first.stride(), first.storage_offset())


def _lie_together(parts: Sequence[Tensor]) -> bool:
    """Whether they are in one storage, each behind the last."""
    storage, place = parts[0].untyped_storage().data_ptr(), parts[0].data_ptr()
    for part in parts:
        is_next = part.is_contiguous() and part.data_ptr() == place
        if not is_next or part.untyped_storage().data_ptr() != storage:
            return False
        place += part.numel() * part.element_size()
    return True
