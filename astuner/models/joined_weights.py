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
        return all(_is_made_of(joined, parts) for parts, joined in pairs if joined is not None)

    def __call__(self, x: Tensor) -> tuple[Tensor, ...]:
        """From (N, E) to one (N, size) of each layer."""
        return nn.functional.linear(x, self._weight, self._bias).split(self.sizes, dim=-1)


@torch.no_grad()
def _joined(parts: Sequence[Tensor]) -> Tensor:
    """One tensor that shares its memory with all of them, which are moved unless they lie so."""
    first = parts[0]
    num_rows = sum(len(part) for part in parts)
    lies_free = first.untyped_storage().nbytes() >= (
        first.storage_offset() + num_rows * first.stride(0)
    ) * first.element_size()
    if lies_free:
        row = first.stride(0)
        joined = first.data.as_strided(
            (num_rows, *first.shape[1:]), first.stride(), first.storage_offset()
        )
        if row and _is_made_of(joined, parts):
            return joined
    joined = torch.cat([part.data for part in parts])
    for part, view in zip(parts, joined.split([len(part) for part in parts]), strict=True):
        part.data = view
    return joined


def _is_made_of(joined: Tensor, parts: Sequence[Tensor]) -> bool:
    place = joined.data_ptr()
    for part in parts:
        if part.data_ptr() != place or not part.is_contiguous():
            return False
        place += part.numel() * part.element_size()
    return True
