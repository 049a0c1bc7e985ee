"""How long the layers of a generation pass take on one GPU."""

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

There is one JSON line for each shape and number of rows, in microseconds of one layer, its
attention included:

overlapping  the median of replays of a CUDA graph of all layers, in which each kernel is set up
             while the one before ends
apart        the same where a kernel waits for the end of the one before
floor        to read weights, keys and values once, at the measured bandwidth of a copy
"""

ROWS = [1, 8, 16, 32, 64, 128, 256, 512]


class Layers:
    """Of one model, and rows with keys and values of their own."""

    def __init__(self, shape: str, num_rows: int, context: int) -> None:
        # They need Triton, which comes with the CUDA builds of torch only.
        from astuner.engine.decode_graphs import DecodePass
        from astuner.engine.decode_layers import DecodeLayers
        from astuner.engine.paged_attention import KeyValueCache

        model = make_model(shape)
        config = model.config
        self._decoder = model.get_decoder()
        self.num_layers = config.num_hidden_layers
        self._layers = DecodeLayers(self._decoder, context)
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
        self._cache = cache  # which the pass knows by its addresses alone
        self._pass = DecodePass(slots, tables, lengths, cache)
        self._ids = torch.randint(config.vocab_size, (num_rows,), device="cuda")
        self._positions = torch.full((num_rows,), context - 1, device="cuda")
        weights = sum(one.numel() for one in self._decoder.layers[0].parameters())
        cached = num_rows * context * 2 * config.num_key_value_heads * size
        self.bytes_read = 2 * (weights + cached)
        """By one layer."""

    @torch.no_grad()
    def run(self, _: int) -> Tensor:
        return self._layers(self._ids, self._positions, self._pass)

    def microseconds(self, *, overlapping: bool) -> float:
        """Of one layer."""
        from astuner.engine import decode_kernel, decode_layer_kernel

        def overlap(device: torch.device) -> dict[str, bool]:
            return usual(device) if overlapping else {"overlaps": False}

        usual = decode_kernel.overlap
        decode_kernel.overlap = decode_layer_kernel.overlap = overlap
        try:
            return round(seconds_of_a_call(self.run, 1) / self.num_layers * 1e6, 1)
        finally:
            decode_kernel.overlap = decode_layer_kernel.overlap = usual


def measure(shape: str, num_rows: int, context: int, bandwidth: float) -> dict[str, Any]:
    layers = Layers(shape, num_rows, context)
    return {
        "shape": shape,
        "rows": num_rows,
        "context": context,
        "overlapping": layers.microseconds(overlapping=True),
        "apart": layers.microseconds(overlapping=False),
        "floor": round(layers.bytes_read / bandwidth * 1e6, 1),
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
