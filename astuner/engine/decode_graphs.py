"""One token for each of many rows, mostly of growing completions, on a GPU, replayed from recorded
CUDA graphs.

A pass of a small model is hundreds of kernels of a few microseconds each, and launching them one by
one takes longer than running them. So the whole pass, the choice of the tokens included, is
recorded once for a ladder of batch sizes and replayed for the smallest that is large enough. A pass
can be begun together with those behind it, each of which goes on with what the one before chose.

Shapes: N growing completions, padded to the size of the graph; E hidden size, V
vocabulary.
"""

import logging
from collections.abc import Callable
from itertools import zip_longest
from typing import Any, Literal

import numpy
import torch
from torch import Tensor
from triton.errors import TritonError  # type: ignore[import-not-found]  # with CUDA only

from astuner.engine.decode_kernel import Deal, deal_keys, decode_attention, write_to_pages
from astuner.engine.decode_layers import DecodeLayers, fits
from astuner.engine.decode_rows import DecodeRows, PassRows, Replayed
from astuner.engine.decode_rows_kernel import describe_rows, note_chosen
from astuner.engine.pace import Pace
from astuner.engine.paged_attention import KeyValueCache, Pass
from astuner.engine.sample_kernel import sample_rows
from astuner.engine.scheduler import NO_COLUMN
from astuner.engine.transfer import upload
from astuner.machine.heap import without_collecting
from astuner.models.device import is_out_of_memory
from astuner.models.logits import logits_of

logger = logging.getLogger(__name__)

_SIZES = (1, 2, 4, 8, 16, 24, 32, 48, *range(64, 128, 8), *range(128, 256, 16))
_SIZES += (*range(256, 512, 32), *range(512, 1024, 64), *range(1024, 2049, 128))
"""Of recorded passes. From 64 rows on, where they begin to cost, up to 2,048 at most an eighth is
padding, but for passes of few sizes."""
_FEW_SIZES = {64, *range(128, 2049, 128)}
"""For passes whose number of rows may not come again, of which few are worth a recording."""

Mode = Literal["tokens", "logits"]
"""Each row's token at its temperature; or logits, from which the caller takes them."""


class DecodePass:
    """What the attention has to know of one pass; all tensors keep their addresses."""

    def __init__(
        self, slots: Tensor, tables: Tensor, lengths: Tensor, cache: KeyValueCache
    ) -> None:
        self.slots = slots
        self.addresses = cache.addresses
        self._tables = tables
        self._lengths = lengths
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
        write_to_pages(key, value, self.addresses, self.slots, layer=layer)
        return self.attend_to_written(
            layer, query, num_key_heads=key.shape[1], scaling=scaling, window=window
        )

    def attend_to_written(
        self, layer: int, query: Tensor, *, num_key_heads: int, scaling: float, window: int | None
    ) -> Tensor:
        """Attend with query (N, H, D) to what the cache holds, each row's new token included."""
        return decode_attention(
            query,
            self.addresses,
            self._tables,
            self._deal(num_key_heads, window),
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


ComputeStates = Callable[[Tensor, Tensor, Pass], Tensor]
"""From ids (N) and positions (N) to the last layer's hidden states (N, E)."""


class DecodeGraphs:
    """Replays passes. Owns the buffers and the recorded graphs."""

    def __init__(
        self,
        model: Any,
        compute_states: ComputeStates,
        cache: KeyValueCache,
        *,
        max_rows: int,
        max_model_len: int,
    ) -> None:
        """`compute_states` runs the model's own modules, where `DecodeLayers` does not fit it."""
        device = model.device
        self._model = model
        self._compute_states = compute_states
        self._cache = cache
        decoder = model.get_decoder()
        self.layers = DecodeLayers(decoder, max_model_len) if fits(decoder) else None
        """The same as the decoder in fewer kernels; None where it is of another family."""
        sizes = [size for size in _SIZES if size < max_rows]
        self._sizes = [*sizes, max_rows]
        self._rows = DecodeRows(
            max_rows,
            -(-max_model_len // cache.page_size),
            spare_page=cache.spare_page,
            device=device,
        )
        self._integers = torch.zeros(3, max_rows, dtype=torch.int64, device=device)
        """Ids, positions and slots."""
        self._lengths = torch.zeros(max_rows, dtype=torch.int32, device=device)
        self._draw = torch.zeros(max_rows, device=device)
        """Of the pass that is computed."""
        self._uploaded = torch.zeros(6 + Pace.MOST, max_rows, dtype=torch.int32, device=device)
        self._step = self._uploaded[0, :1]
        """How many of the passes that were begun at once are done."""
        self._inputs = self._uploaded[1:5]
        """Where the token of each row stands in `chosen`, the token, its position, and in how many
        passes it goes on."""
        self._inverse_temperatures = self._uploaded[5].view(torch.float32)
        """0 for the most probable token."""
        self._draws = self._uploaded[6:].view(torch.float32)
        """Of each pass."""
        self._chosen = torch.zeros(2, max_rows, device=device)
        """Ids and log-probabilities that the last pass sampled."""
        self._found = torch.zeros(Pace.MOST, 2, max_rows, device=device)
        """The same of each of the passes that were begun at once."""
        self._graphs: dict[tuple[int, Mode], torch.cuda.CUDAGraph] = {}
        self._logits: dict[int, Tensor] = {}
        self._pool: Any = None
        # One for all sizes: torch keeps the memory and cuBLAS the workspace of each apart.
        self._side_stream = torch.cuda.Stream(device)
        self.can_record = True
        """False once a pass could not be recorded, because it copies from the host or waits for it,
        as some layers with experts do."""

    @property
    def has_recorded(self) -> bool:
        """Whether passes of this model are known to be recordable."""
        return self.can_record and bool(self._graphs)

    def run(self, wanted: PassRows, *, mode: Mode, is_one_off: bool = False) -> Replayed | None:
        """Compute a token of each row, which may still be under way to the host, and then further
        ones of the rows that have draws for them.

        `is_one_off`: the next pass will have another number of rows, as one that reads or guesses.
        Returns without waiting for the GPU; None where such a pass cannot be recorded.
        """
        size = self._size(len(wanted.drafts), mode, is_one_off=is_one_off)
        rows = self._rows.place(wanted.drafts, size)
        places, num_passes = numpy.array(rows), numpy.array([*map(len, wanted.draws)])
        self._upload_inputs(wanted, places, num_passes)
        graph = self._graph(size, mode)
        if graph is None:
            return None
        graph.replay()
        most = max(1, int(num_passes.max()))
        for step in range(1, most):
            num_rows = 1 + int(places[num_passes > step].max())
            graph = self._graph(self._size(num_rows, mode, is_one_off=False), mode)
            assert graph is not None
            graph.replay()
        logits = self._logits[size] if mode == "logits" else None
        return Replayed(rows, self._found[:most], logits)

    def _size(self, num_rows: int, mode: Mode, *, is_one_off: bool) -> int:
        """The smallest; for a pass of its own kind one that is recorded, where one is near, since
        recording costs more than empty rows."""
        sizes = [size for size in self._sizes if size >= num_rows]
        if not is_one_off:
            return sizes[0]
        largest = next((size for size in sizes if size in _FEW_SIZES), sizes[-1])
        recorded = (size for size in sizes if size <= largest and (size, mode) in self._graphs)
        return next(recorded, largest)

    def keep(self, chosen: Tensor) -> None:
        """Note what was sampled outside of a recorded pass: ids and log-probabilities (2, N), to
        which the drafts' `under_way` refers from here on."""
        self._chosen[:, : chosen.shape[1]].copy_(chosen)

    def _upload_inputs(self, wanted: PassRows, places: Any, num_passes: Any) -> None:
        """To these rows, of which each goes on in so many passes."""
        integers = numpy.zeros(self._uploaded.shape, dtype=numpy.int32)
        integers[1] = NO_COLUMN
        integers[1, places] = wanted.columns
        integers[2, places] = wanted.ids
        integers[3, places] = wanted.positions
        integers[4, places] = num_passes
        floats = integers[5:].view(numpy.float32)
        floats[:] = 1
        floats[0, places] = wanted.inverse_temperatures
        for step, draws in enumerate(zip_longest(*wanted.draws, fillvalue=0.0), start=1):
            floats[step, places] = draws
        self._uploaded.copy_(upload(integers, self._uploaded.device))

    def forget(self) -> None:
        """The completions are others from here on, and the cache may lie elsewhere."""
        self._rows.forget()
        if self.layers is not None and self.layers.rejoin():
            self._graphs.clear()

    def _graph(self, size: int, mode: Mode) -> torch.cuda.CUDAGraph | None:
        if (size, mode) not in self._graphs:
            graph = torch.cuda.CUDAGraph()
            try:
                self._warm_up(size, mode)
                # Meanwhile no recorded pass may end, such as one of an engine that is in a cycle
                # (https://github.com/pytorch/pytorch/pull/161037).
                with (
                    without_collecting(),
                    torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"),
                ):
                    self._pass(size, mode)
            except (RuntimeError, TritonError) as error:
                first = _first_of(error)
                # Once passes look ahead, some of a batch's tokens are on the GPU alone, and only a
                # recorded pass can begin with them.
                if is_out_of_memory(error) or is_out_of_memory(first) or self._graphs:
                    if first is error:
                        raise
                    raise first from None
                self.can_record = False
                logger.warning(
                    "each kernel is launched by itself, which is slower: a pass of this model "
                    "cannot be recorded (%s)",
                    first,
                )
                return None
            self._pool = graph.pool()
            self._graphs[size, mode] = graph
        return self._graphs[size, mode]

    def _warm_up(self, size: int, mode: Mode) -> None:
        """Some kernels set themselves up when they first run, which cannot be recorded."""
        chosen, step = self._chosen.clone(), self._step.clone()
        current = torch.cuda.current_stream()
        self._side_stream.wait_stream(current)
        with torch.cuda.stream(self._side_stream):
            self._pass(size, mode)
        current.wait_stream(self._side_stream)
        self._chosen.copy_(chosen)
        self._step.copy_(step)

    def _pass(self, size: int, mode: Mode) -> None:
        tables, lengths, draw = self._rows.tables[:size], self._lengths[:size], self._draw[:size]
        ids, positions, slots = integers = self._integers[:, :size]
        describe_rows(
            self._inputs[:, :size],
            self._draws[:, :size],
            self._step,
            self._chosen,
            tables,
            integers,
            lengths,
            draw,
            page_size=self._cache.page_size,
            spare_page=self._cache.spare_page,
        )
        decode_pass = DecodePass(slots, tables, lengths, self._cache)
        compute = self.layers or self._compute_states
        logits = logits_of(self._model, compute(ids, positions, decode_pass))
        if mode == "logits":
            self._logits[size] = logits
            return
        ids, logprobs = sample_rows(logits, self._inverse_temperatures[:size], draw)
        inputs = self._inputs[:, :size]
        note_chosen(ids, logprobs, inputs, self._step, self._chosen, self._found)
        self._step.add_(1)


def _first_of(error: BaseException) -> BaseException:
    """The error in what was recorded; the recording, which it ends, then fails by itself."""
    while (before := error.__context__) is not None:
        if not isinstance(before, (RuntimeError, TritonError)):
            break
        error = before
    return error
