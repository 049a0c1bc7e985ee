"""How long the layers of a generation pass take on one GPU, in nine kernels each and in five."""

import argparse
import json
from typing import Any

import torch
from torch import Tensor

from benchmarks.decode_attention import seconds_of_a_call
from benchmarks.gpu_limits import SHAPES, copy_rate, make_model

DESCRIPTION = """\
Time the layers of a pass with random weights, one new token a row, as recorded passes call them.

    python -m benchmarks.decode_layers
    python -m benchmarks.decode_layers --shape qwen2-1.5b --rows 1 64 512 --context 1024

There is one JSON line for each shape and number of rows:

microseconds        of one layer, its attention included: the median of replays of a CUDA graph of
                    all layers; `nine` kernels a layer, products by cuBLAS, and `five`, where norms,
                    rotation, gate and sums are part of our own products
floor_microseconds  to read weights, keys and values once, at the measured bandwidth of a copy
worst_difference    between the hidden states of the two, as a share of the largest
"""

ROWS = [1, 8, 16, 32, 64, 128, 256, 512]


class Layers:
    """Of one model, and rows with keys and values of their own."""

    def __init__(self, shape: str, num_rows: int, context: int) -> None:
        # They need Triton, which comes with the CUDA builds of torch only.
        from astuner.engine import decode_layers
        from astuner.engine.decode_graphs import DecodePass
        from astuner.engine.paged_attention import KeyValueCache

        model = make_model(shape)
        config = model.config
        self._decoder = model.get_decoder()
        self._kind = decode_layers
        self.num_layers = config.num_hidden_layers
        self._layers = decode_layers.DecodeLayers(self._decoder, context)
        num_pages = -(-context // 16)
        cache = KeyValueCache(
            num_rows * num_pages, page_size=16, num_layers=self.num_layers, device=model.device
        )
        size = config.hidden_size // config.num_attention_heads
        like = torch.empty(
            (0, config.num_key_value_heads, size), dtype=torch.bfloat16, device="cuda"
        )
        for index in range(self.num_layers):
            for written in cache.layer(index, like, like):
                written.normal_()
        tables = torch.randperm(num_rows * num_pages, device="cuda").int().view(num_rows, -1)
        slots = tables[:, -1].long() * 16 + (context - 1) % 16
        lengths = torch.full((num_rows,), context, dtype=torch.int32, device="cuda")
        self._pass = DecodePass(slots, tables, lengths, cache)
        self._ids = torch.randint(config.vocab_size, (num_rows,), device="cuda")
        self._positions = torch.full((num_rows,), context - 1, device="cuda")
        self.bytes_read = sum(layer.numel() * 2 for layer in self._weights()) + (
            num_rows * context * 2 * like[0:1].new_empty((1, *like.shape[1:])).numel() * 2
        )

    def _weights(self) -> list[Tensor]:
        """Of one layer."""
        return [*self._decoder.layers[0].parameters()]

    @torch.no_grad()
    def run(self, *, most_tiled_rows: int) -> Tensor:
        self._kind.MOST_TILED_ROWS = most_tiled_rows
        return self._layers(self._ids, self._positions, self._pass)

    def microseconds(self, *, most_tiled_rows: int) -> float:
        """Of one layer."""
        seconds = seconds_of_a_call(lambda _: self.run(most_tiled_rows=most_tiled_rows), 1)
        return round(seconds / self.num_layers * 1e6, 1)


def measure(shape: str, num_rows: int, context: int, bandwidth: float) -> dict[str, Any]:
    layers = Layers(shape, num_rows, context)
    nine, five = (layers.run(most_tiled_rows=most).float() for most in (0, num_rows))
    return {
        "shape": shape,
        "rows": num_rows,
        "context": context,
        "nine_microseconds": layers.microseconds(most_tiled_rows=0),
        "five_microseconds": layers.microseconds(most_tiled_rows=num_rows),
        "floor_microseconds": round(layers.bytes_read / bandwidth * 1e6, 1),
        "worst_difference": round(((nine - five).abs().max() / nine.abs().max()).item(), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", nargs="+", choices=list(SHAPES), default=list(SHAPES)[:3])
    parser.add_argument("--rows", nargs="+", type=int, default=ROWS, help=f"default: {ROWS}")
    parser.add_argument("--context", type=int, default=400, help="tokens of each row")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("torch finds no GPU, and there is nothing to measure without one")
    bandwidth = copy_rate()
    torch.cuda.empty_cache()
    machine = {"device": torch.cuda.get_device_name(), "torch": torch.__version__}
    for shape in arguments.shape:
        for num_rows in arguments.rows:
            found = measure(shape, num_rows, arguments.context, bandwidth)
            print(json.dumps({**machine, **found}), flush=True)


if __name__ == "__main__":
    main()
