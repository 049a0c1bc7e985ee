"""One token for each of many growing completions on a GPU, replayed from recorded CUDA graphs.

A pass of a small model is hundreds of kernels of a few microseconds each, and launching them one by
one takes longer than running them. So the whole pass, the choice of the tokens included, is
recorded once for a ladder of batch sizes and replayed for the smallest that is large enough.

Shapes: N growing completions, padded to the size of the graph; V vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy
import torch
from torch import Tensor

from astuner.backbone.local.decode_kernel import decode_attention, write_to_pages
from astuner.backbone.local.paged_attention import KeyValueCache
from astuner.backbone.local.scheduler import Chunk
from astuner.backbone.local.token_chooser import draw

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

Mode = Literal["plain", "sample", "greedy", "logits"]
"""Drawn at temperature 1; at any temperature; the most probable; or left to the caller."""


class DecodePass:
    """What the attention has to know of one pass; all tensors keep their addresses."""

    def __init__(
        self, buffers: "_Buffers", num_rows: int, addresses: Tensor, page_size: int
    ) -> None:
        self._slots = buffers.slots[:num_rows]
        self._tables = buffers.tables[:num_rows]
        self._lengths = buffers.lengths[:num_rows]
        self._addresses = addresses
        self._page_size = page_size

    def attend(
        self,
        layer: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        scaling: float,
        window: int | None,
    ) -> Tensor:
        """Write key and value (N, G, D) to the cache, then attend with query (N, H, D)."""
        write_to_pages(key, value, self._addresses, self._slots, layer=layer)
        return decode_attention(
            query,
            self._addresses,
            self._tables,
            self._lengths,
            layer=layer,
            num_key_heads=key.shape[1],
            page_size=self._page_size,
            scaling=scaling,
            window=window,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Buffers:
    """Inputs and outputs of every graph, for the largest batch."""

    ids: Tensor
    positions: Tensor
    slots: Tensor
    lengths: Tensor
    tables: Tensor
    inverse_temperature: Tensor
    draws: Tensor
    chosen: Tensor
    """(2, N) float32: ids and log-probabilities."""


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
        self._device = device
        sizes = [size for size in _SIZES if size < max_num_seqs]
        self._sizes = [*sizes, max_num_seqs]
        self._buffers = _make_buffers(max_num_seqs, -(-max_model_len // page_size), device)
        # Rows of padding read and write a page that no completion has.
        self._tables = numpy.full(self._buffers.tables.shape, cache.spare_page, dtype=numpy.int32)
        self._rows: list[tuple[int, int]] = [(0, 0)] * max_num_seqs
        self._graphs: dict[tuple[int, Mode], torch.cuda.CUDAGraph] = {}
        self._logits: dict[int, Tensor] = {}
        self._pool: Any = None

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
        that the next call overwrites.
        """
        num_rows = len(batch)
        size = next(size for size in self._sizes if size >= num_rows)
        self._fill(batch, size, temperatures, draws)
        self._graph(size, mode).replay()
        if mode == "logits":
            return self._logits[size][:num_rows]
        return self._buffers.chosen[:, :num_rows].cpu().numpy()

    def _fill(
        self,
        batch: Sequence[Chunk],
        size: int,
        temperatures: Sequence[float],
        draws: Sequence[float],
    ) -> None:
        num_rows, page_size = len(batch), self._page_size
        self._fill_tables(batch, size)
        position = numpy.zeros(size, dtype=numpy.int64)
        position[:num_rows] = [chunk.start for chunk in batch]
        token = numpy.zeros(size, dtype=numpy.int64)
        token[:num_rows] = [chunk.draft.ids[-1] for chunk in batch]
        page = self._tables[numpy.arange(size), position // page_size].astype(numpy.int64)
        integers = numpy.stack([token, position, page * page_size + position % page_size])
        floats = numpy.ones((2, size), dtype=numpy.float32)
        floats[0, :num_rows] = [1 / (temperature or 1) for temperature in temperatures]
        floats[1, :num_rows] = draws
        uploaded = self._upload(integers)
        buffers = self._buffers
        buffers.ids[:size] = uploaded[0]
        buffers.positions[:size] = uploaded[1]
        buffers.slots[:size] = uploaded[2]
        buffers.lengths[:size] = uploaded[1] + 1
        uploaded = self._upload(floats)
        buffers.inverse_temperature[:size] = uploaded[0]
        buffers.draws[:size] = uploaded[1]

    def _fill_tables(self, batch: Sequence[Chunk], size: int) -> None:
        """Bring the rows up to date whose pages changed."""
        rows = [(id(chunk.draft), len(chunk.draft.pages)) for chunk in batch]
        rows += [(0, 0)] * (size - len(rows))
        changed = [index for index, row in enumerate(rows) if row != self._rows[index]]
        if not changed:
            return
        for index in changed:
            pages = batch[index].draft.pages if index < len(batch) else ()
            self._tables[index, : len(pages)] = pages
            self._tables[index, len(pages) :] = self._cache.spare_page
            self._rows[index] = rows[index]
        self._buffers.tables[:size] = self._upload(self._tables[:size])

    def _upload(self, array: Any) -> Tensor:
        return torch.from_numpy(array).pin_memory().to(self._device, non_blocking=True)

    def forget(self) -> None:
        """The completions are others from here on, and the cache may lie elsewhere."""
        self._rows = [(-1, -1)] * len(self._rows)

    def _graph(self, size: int, mode: Mode) -> torch.cuda.CUDAGraph:
        if (size, mode) not in self._graphs:
            # Some kernels set themselves up when they first run, which cannot be recorded.
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                self._pass(size, mode)
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                self._pass(size, mode)
            self._pool = graph.pool()
            self._graphs[size, mode] = graph
        return self._graphs[size, mode]

    def _pass(self, size: int, mode: Mode) -> None:
        buffers = self._buffers
        decode_pass = DecodePass(buffers, size, self._cache.addresses, self._page_size)
        logits = self._compute_logits(buffers.ids[:size], buffers.positions[:size], decode_pass)
        if mode == "logits":
            self._logits[size] = logits
            return
        if mode == "greedy":
            ids = logits.argmax(-1)
            logprobs = logits.float().log_softmax(-1).gather(-1, ids[:, None])[:, 0]
        else:
            if mode == "sample":
                logits = logits * buffers.inverse_temperature[:size, None]
            probs = torch.softmax(logits, -1, dtype=torch.float32)
            ids = draw(probs, buffers.draws[:size])
            logprobs = probs.gather(-1, ids[:, None])[:, 0].log()
        buffers.chosen[0, :size] = ids
        buffers.chosen[1, :size] = logprobs


def _make_buffers(max_num_seqs: int, num_pages: int, device: torch.device) -> _Buffers:
    def zeros(*shape: int, dtype: torch.dtype) -> Tensor:
        return torch.zeros(shape, dtype=dtype, device=device)

    return _Buffers(
        ids=zeros(max_num_seqs, dtype=torch.int64),
        positions=zeros(max_num_seqs, dtype=torch.int64),
        slots=zeros(max_num_seqs, dtype=torch.int64),
        lengths=zeros(max_num_seqs, dtype=torch.int32),
        tables=zeros(max_num_seqs, num_pages, dtype=torch.int32),
        inverse_temperature=zeros(max_num_seqs, dtype=torch.float32),
        draws=zeros(max_num_seqs, dtype=torch.float32),
        chosen=zeros(2, max_num_seqs, dtype=torch.float32),
    )
