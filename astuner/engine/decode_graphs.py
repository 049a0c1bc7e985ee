"""One token for each of many growing completions on a GPU, replayed from recorded CUDA graphs.

A pass of a small model is hundreds of kernels of a few microseconds each, and launching them one by
one takes longer than running them. So the whole pass, the choice of the tokens included, is
recorded once for a ladder of batch sizes and replayed for the smallest that is large enough.

Shapes: N growing completions, padded to the size of the graph; V vocabulary.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy
import torch
from torch import Tensor

from astuner.engine.decode_kernel import Deal, deal_keys, decode_attention, write_to_pages
from astuner.engine.paged_attention import KeyValueCache
from astuner.engine.scheduler import Chunk, Draft
from astuner.engine.token_chooser import draw
from astuner.models.device import is_out_of_memory

logger = logging.getLogger(__name__)

_SIZES = (
    1,
    2,
    4,
    8,
    16,
    24,
    32,
    48,
    64,
    96,
    128,
    192,
    256,
    320,
    384,
    448,
    512,
    640,
    768,
    896,
    1024,
)

_ChunkView = tuple[Draft | None, int, int]
"""A draft, how often it lost its pages, and how many it has: while equal, the same pages."""

_PADDING: _ChunkView = (None, 0, 0)
"""Stands for a row that no completion uses."""

Mode = Literal["plain", "sample", "greedy", "logits"]
"""Drawn at temperature 1; at any temperature; the most probable; or left to the caller."""


class DecodePass:
    """What the attention has to know of one pass; all tensors keep their addresses."""

    def __init__(
        self, slots: Tensor, tables: Tensor, lengths: Tensor, cache: KeyValueCache
    ) -> None:
        self._slots = slots
        self._tables = tables
        self._lengths = lengths
        self._addresses = cache.addresses
        self._page_size = cache.page_size
        self._deals: dict[tuple[int, int | None], Deal] = {}

    def attend(
        self,
        layer: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        scaling: float,
        window: int | None,
        softcap: float | None,
    ) -> Tensor:
        """Write key and value (N, G, D) to the cache, then attend with query (N, H, D)."""
        assert softcap is None  # of such layers no pass is recorded
        write_to_pages(key, value, self._addresses, self._slots, layer=layer)
        return decode_attention(
            query,
            self._addresses,
            self._tables,
            self._deal(key.shape[1], window),
            layer=layer,
            page_size=self._page_size,
            scaling=scaling,
        )

    def _deal(self, num_key_heads: int, window: int | None) -> Deal:
        """Made by the first layer that needs it."""
        key = num_key_heads, window
        if key not in self._deals:
            self._deals[key] = deal_keys(self._lengths, num_key_heads=num_key_heads, window=window)
        return self._deals[key]


class _Input:
    """A tensor on the GPU that is filled from one on the host, which numpy sees too."""

    def __init__(self, *shape: int, dtype: torch.dtype, device: torch.device) -> None:
        self._host = torch.zeros(shape, dtype=dtype).pin_memory()
        self.array: Any = self._host.numpy()
        self.tensor = torch.zeros(shape, dtype=dtype, device=device)

    def upload(self) -> None:
        self.tensor.copy_(self._host, non_blocking=True)


ComputeLogits = Callable[[Tensor, Tensor, DecodePass], Tensor]
"""From ids (N) and positions (N) to logits (N, V)."""


class DecodeGraphs:
    """Replays passes. Owns the buffers and the recorded graphs."""

    def __init__(
        self,
        compute_logits: ComputeLogits,
        cache: KeyValueCache,
        *,
        max_num_seqs: int,
        max_model_len: int,
        device: torch.device,
    ) -> None:
        self._compute_logits = compute_logits
        self._cache = cache
        self._page_size = page_size = cache.page_size
        sizes = [size for size in _SIZES if size < max_num_seqs]
        self._sizes = [*sizes, max_num_seqs]
        num_pages = -(-max_model_len // page_size)
        self._integers = _Input(3, max_num_seqs, dtype=torch.int64, device=device)
        """Ids, positions and slots."""
        self._floats = _Input(2, max_num_seqs, dtype=torch.float32, device=device)
        """Inverse temperatures and draws."""
        self._tables = _Input(max_num_seqs, num_pages, dtype=torch.int32, device=device)
        # Rows of padding read and write a page that no completion has.
        self._tables.array[:] = cache.spare_page
        self._tables.upload()
        self._rows: list[_ChunkView] = [_PADDING] * max_num_seqs
        self._row_indices = numpy.arange(max_num_seqs)
        self._chosen = torch.zeros(2, max_num_seqs, device=device)
        """Ids and log-probabilities."""
        self._graphs: dict[tuple[int, Mode], torch.cuda.CUDAGraph] = {}
        self._logits: dict[int, Tensor] = {}
        self._pool: Any = None
        self.can_record = True
        """False once a pass could not be recorded, because it copies from the host or waits for it,
        as some layers with experts do."""

    def run(
        self,
        batch: Sequence[Chunk],
        *,
        mode: Mode,
        temperatures: Sequence[float],
        draws: Sequence[float],
    ) -> Any:
        """Compute the last token of each draft.

        Returns ids and log-probabilities as an array (2, N); in the mode "logits", a tensor (N, V)
        that the next call overwrites; None where such a pass cannot be recorded.
        """
        num_rows = len(batch)
        size = next(size for size in self._sizes if size >= num_rows)
        self._fill_tables(batch, size)
        self._fill_inputs(batch, temperatures if mode == "sample" else (), draws)
        graph = self._graph(size, mode)
        if graph is None:
            return None
        graph.replay()
        if mode == "logits":
            return self._logits[size][:num_rows]
        return self._chosen.cpu().numpy()[:, :num_rows]

    def _fill_inputs(
        self, batch: Sequence[Chunk], temperatures: Sequence[float], draws: Sequence[float]
    ) -> None:
        num_rows = len(batch)
        token, position, slot = self._integers.array
        token[:num_rows] = [chunk.draft.ids[-1] for chunk in batch]
        position[:num_rows] = [chunk.start for chunk in batch]
        token[num_rows:] = position[num_rows:] = 0
        pages = self._tables.array[self._row_indices, position // self._page_size]
        slot[:] = pages.astype(numpy.int64) * self._page_size + position % self._page_size
        self._integers.upload()
        if temperatures:
            self._floats.array[0, :num_rows] = [1 / temperature for temperature in temperatures]
        self._floats.array[1, :num_rows] = draws
        self._floats.upload()

    def _fill_tables(self, batch: Sequence[Chunk], size: int) -> None:
        """Bring the rows up to date whose pages changed."""
        drafts = (chunk.draft for chunk in batch)
        rows: list[_ChunkView] = [(d, d.num_displaced, len(d.pages)) for d in drafts]
        rows += [_PADDING] * (size - len(rows))
        before = self._rows
        changed = [index for index, row in enumerate(rows) if row != before[index]]
        if not changed:
            return
        tables = self._tables.array
        for index in changed:
            pages = batch[index].draft.pages if index < len(batch) else ()
            tables[index, : len(pages)] = pages
            tables[index, len(pages) :] = self._cache.spare_page
            before[index] = rows[index]
        self._tables.upload()

    def forget(self) -> None:
        """The completions are others from here on, and the cache may lie elsewhere."""
        self._rows = [(None, -1, -1)] * len(self._rows)

    def _graph(self, size: int, mode: Mode) -> torch.cuda.CUDAGraph | None:
        if (size, mode) not in self._graphs:
            # Some kernels set themselves up when they first run, which cannot be recorded.
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                self._pass(size, mode)
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            try:
                with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                    self._pass(size, mode)
            except RuntimeError as error:
                if is_out_of_memory(error):
                    raise
                self.can_record = False
                logger.info(
                    "each kernel is launched by itself, which is slower: a pass of this model "
                    "cannot be recorded (%s)",
                    error,
                )
                return None
            self._pool = graph.pool()
            self._graphs[size, mode] = graph
        return self._graphs[size, mode]

    def _pass(self, size: int, mode: Mode) -> None:
        ids, positions, slots = self._integers.tensor[:, :size]
        inverse_temperatures, draws = self._floats.tensor[:, :size]
        lengths = (positions + 1).int()
        decode_pass = DecodePass(slots, self._tables.tensor[:size], lengths, self._cache)
        logits = self._compute_logits(ids, positions, decode_pass)
        if mode == "logits":
            self._logits[size] = logits
            return
        if mode == "greedy":
            chosen = logits.argmax(-1)
            logprobs = logits.float().log_softmax(-1).gather(-1, chosen[:, None])[:, 0]
        else:
            if mode == "sample":
                logits = logits * inverse_temperatures[:, None]
            probs = torch.softmax(logits, -1, dtype=torch.float32)
            chosen = draw(probs, draws)
            logprobs = probs.gather(-1, chosen[:, None])[:, 0].log()
        self._chosen[0, :size] = chosen
        self._chosen[1, :size] = logprobs
