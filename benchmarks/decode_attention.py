"""How close the attention of a generation pass comes to the memory bandwidth of one GPU."""

import argparse
import importlib.metadata
import itertools
import json
import random
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from benchmarks.gpu_limits import copy_rate

DESCRIPTION = """\
Time one layer's attention for growing completions, as recorded passes call it, in bfloat16.

    python -m benchmarks.decode_attention
    python -m benchmarks.decode_attention --shape 12/2/128 --rows 512 --context 280 64-4096
    python -m benchmarks.decode_attention --shape 8/4/256 --context 8192 --window 512

Each completion has one query and attends to its tokens, whose keys and values lie in pages of
random order. There is one JSON line for each shape, number of completions and context:

microseconds        of one layer: the median of replays of a CUDA graph that goes through so many
                    layers that none finds its keys and values in the L2 cache
floor_microseconds  to read the keys and values once, at the measured bandwidth of a copy
times_floor         their quotient: 1 is what the card can do
worst_error         largest difference to float32 attention, among the first and last completions
"""

SHAPES = ["9/3/64", "12/2/128", "14/2/64", "32/8/128", "8/8/64", "8/8/128", "8/1/128"]
ROWS = [1, 8, 64, 512]
CONTEXTS = ["280", "1024", "4096", "16384", "64-2000"]
CYCLED_BYTES = 2**29
"""Of the layers that a graph goes through: several times what an L2 cache holds."""
MOST_BYTES = 2**35
"""Of the layers that a graph goes through, unless there are but two."""
NUM_CALLS = 24
"""Of a graph, at least."""
NUM_REPLAYS = 9


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    num_heads: int
    num_key_heads: int
    size: int
    """Of a head."""
    context: str
    """Tokens of each completion: `280`, or `64-2000`, of which each has its random number."""
    lengths: list[int]
    window: int | None
    page_size: int

    @property
    def bytes_read(self) -> int:
        """Keys and values that the attention of one layer needs."""
        num_read = sum(min(length, self.window or length) for length in self.lengths)
        return num_read * self._bytes_per_token

    @property
    def bytes_held(self) -> int:
        """Keys and values of one layer."""
        return sum(self.lengths) * self._bytes_per_token

    @property
    def _bytes_per_token(self) -> int:
        return 2 * self.num_key_heads * self.size * torch.bfloat16.itemsize


class Layers:
    """The cached keys and values of some layers that are used in turn."""

    def __init__(self, case: Case) -> None:
        # It needs Triton, which comes with the CUDA builds of torch only.
        from astuner.engine import decode_kernel

        torch.manual_seed(0)
        self._kernel = decode_kernel
        self._case = case
        num_pages = [-(-length // case.page_size) for length in case.lengths]
        pages = torch.randperm(sum(num_pages), device="cuda").int().split(num_pages)
        self._tables = pad_sequence(list(pages), batch_first=True)
        lengths = torch.tensor(case.lengths, dtype=torch.int32, device="cuda")
        self._deal = decode_kernel.deal_keys(
            lengths, num_key_heads=case.num_key_heads, window=case.window
        )
        self._query = _random(len(case.lengths), case.num_heads, case.size)
        most = min(NUM_CALLS, CYCLED_BYTES // case.bytes_read, MOST_BYTES // case.bytes_held)
        self.num_layers = max(2, most)
        num_slots = sum(num_pages) * case.page_size
        self._caches = [
            _random(num_slots, case.num_key_heads, case.size) for _ in range(2 * self.num_layers)
        ]
        self._addresses = torch.tensor([x.data_ptr() for x in self._caches], device="cuda")

    def attend(self, layer: int) -> Tensor:
        case = self._case
        return self._kernel.decode_attention(
            self._query,
            self._addresses,
            self._tables,
            self._deal,
            layer=layer,
            page_size=case.page_size,
            scaling=case.size**-0.5,
        )

    def worst_error(self) -> float:
        found = self.attend(0).float()
        rows = sorted({0, 1, len(found) // 2, len(found) - 1} & set(range(len(found))))
        return max((found[row] - self._plain_attention(row)).abs().max().item() for row in rows)

    def _plain_attention(self, row: int) -> Tensor:
        """Of the first layer (H, D), in float32."""
        case = self._case
        place = torch.arange(case.lengths[row], device="cuda")[-(case.window or 0) :]
        slot = self._tables[row].long()[place // case.page_size] * case.page_size
        slot += place % case.page_size
        shared = case.num_heads // case.num_key_heads
        key, value = (x[slot].float().repeat_interleave(shared, 1) for x in self._caches[:2])
        score = torch.einsum("hd,khd->hk", self._query[row].float(), key) * case.size**-0.5
        return torch.einsum("hk,khd->hd", score.softmax(-1), value)


def _random(*shape: int) -> Tensor:
    return torch.randn(shape, device="cuda", dtype=torch.bfloat16)


def seconds_of_a_call(call: Callable[[int], object], num_layers: int) -> float:
    """In a recorded graph whose calls go through the layers in turn."""
    for layer in range(num_layers):
        call(layer)
    num_calls = num_layers * -(-NUM_CALLS // num_layers)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for index in range(num_calls):
            call(index % num_layers)
    graph.replay()
    return statistics.median(_seconds_of(graph.replay) for _ in range(NUM_REPLAYS)) / num_calls


def _seconds_of(work: Callable[[], object]) -> float:
    """On the device, between two events."""
    started, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    started.record()
    work()
    ended.record()
    torch.cuda.synchronize()
    return started.elapsed_time(ended) / 1e3


def measure(case: Case, bandwidth: float) -> dict[str, Any]:
    layers = Layers(case)
    error = layers.worst_error()
    seconds = seconds_of_a_call(layers.attend, layers.num_layers)
    floor = case.bytes_read / bandwidth
    return {
        "heads": case.num_heads,
        "key_heads": case.num_key_heads,
        "head_size": case.size,
        "window": case.window,
        "page_size": case.page_size,
        "rows": len(case.lengths),
        "context": case.context,
        "microseconds": round(seconds * 1e6, 1),
        "floor_microseconds": round(floor * 1e6, 1),
        "times_floor": round(seconds / floor, 2),
        "worst_error": round(error, 5),
    }


def parse_shape(text: str) -> tuple[int, int, int]:
    try:
        heads, key_heads, size = map(int, text.split("/"))
        if heads % key_heads == 0 and size > 0:
            return heads, key_heads, size
    except (ValueError, ZeroDivisionError):
        pass
    raise argparse.ArgumentTypeError(
        f"{text} is no shape: as in 12/2/128, query heads are a multiple of key heads"
    )


def parse_context(text: str) -> str:
    least, _, most = text.partition("-")
    if (least + (most or least)).isdecimal() and 0 < int(least) <= int(most or least):
        return text
    raise argparse.ArgumentTypeError(
        f"{text} is neither a number like 280 nor a range like 64-2000"
    )


def draw_lengths(context: str, num_rows: int) -> list[int]:
    least, _, most = context.partition("-")
    rng = random.Random(0)
    return [rng.randint(int(least), int(most or least)) for _ in range(num_rows)]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--shape",
        nargs="+",
        type=parse_shape,
        default=list(map(parse_shape, SHAPES)),
        metavar="HEADS/KEY-HEADS/SIZE",
        help=f"query heads, key heads and head size; default: {' '.join(SHAPES)}",
    )
    parser.add_argument(
        "--rows", nargs="+", type=int, default=ROWS, help=f"completions; default: {ROWS}"
    )
    parser.add_argument(
        "--context",
        nargs="+",
        type=parse_context,
        default=CONTEXTS,
        help="tokens of each completion, or a range of which each has its number; default: "
        + " ".join(CONTEXTS),
    )
    parser.add_argument("--window", type=int, help="of sliding attention; default: none")
    parser.add_argument("--page-size", type=int, default=16)
    parser.add_argument(
        "--max-gib",
        type=float,
        default=8,
        help="leave cases out whose layer holds more than this; default: 8",
    )
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("torch finds no GPU, and there is nothing to measure without one")
    return arguments


def main() -> None:
    arguments = parse_arguments()
    bandwidth = copy_rate()
    torch.cuda.empty_cache()
    machine = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "triton": importlib.metadata.version("triton"),
        "copy_tb_per_second": round(bandwidth / 1e12, 2),
    }
    cases = itertools.product(arguments.shape, arguments.rows, arguments.context)
    for (num_heads, num_key_heads, size), num_rows, context in cases:
        case = Case(
            num_heads=num_heads,
            num_key_heads=num_key_heads,
            size=size,
            context=context,
            lengths=draw_lengths(context, num_rows),
            window=arguments.window,
            page_size=arguments.page_size,
        )
        if case.bytes_held <= arguments.max_gib * 2**30:
            print(json.dumps({**machine, **measure(case, bandwidth)}), flush=True)


if __name__ == "__main__":
    main()
