"""Attention for generation: every completion attends to its own pages of the cache only.

Owns the tensors of the key-value cache and the attention function that the model uses while it
samples. Which page holds what is decided in `scheduler.py`. On a GPU, passes that read prompts go
through torch's variable-length flash kernel and recorded ones through that of `decode_kernel.py`;
everything else, scores with a soft cap among it, is padded groups and matrix products. Training
has its own attention.

Shapes: T queries of the pass, N drafts of one group, Q and K most queries and keys of a draft in
that group, H query heads, G key heads, R = H / G, D head size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy
import torch
from torch import Tensor
from torch.nn import functional
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from astuner.engine.scheduler import Chunk
from astuner.engine.transfer import upload

GENERATION_ATTENTION = "astuner_paged"
"""Name under which the function is registered with transformers."""

_SHORTEST_PADDING = 64
"""Drafts with at most this many keys share one group: a padded key costs less than a call."""

_MOST_SCORES = 2**26
"""That are alive at once where they are a matrix: 256 MiB."""


class KeyValueCache:
    """Keys and values of all layers, (slots, G, D) each. A layer's are made when it is first used.

    Slot `page * page_size + i` holds the i-th token of the page: token 20 of a sequence whose pages
    of 16 are (7, 2, 9) lies in slot 2 * 16 + 4 = 36. One page more than the scheduler gives away
    takes what padding writes.
    """

    def __init__(
        self, num_pages: int, *, page_size: int, num_layers: int, device: torch.device
    ) -> None:
        self.page_size = page_size
        self.spare_page = num_pages
        self.needs_matrices = False
        """Whether a layer asks for what only matrix products do here: capped scores, or values of
        another size than keys."""
        self.addresses = torch.zeros(2 * num_layers, dtype=torch.int64, device=device)
        """Where the keys and values of each layer lie, in turn."""
        self._num_slots = (num_pages + 1) * page_size
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}
        self._likes: dict[int, tuple[Tensor, Tensor]] = {}
        """Empty tensors, of the type and of the size of a slot of each layer."""

    @property
    def is_made(self) -> bool:
        return 2 * len(self._layers) == len(self.addresses)

    def layer(self, index: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Of the layer that makes such keys and values (T, G, D)."""
        if index not in self._layers:
            self._likes[index] = (
                key.new_empty((0, *key.shape[1:])),
                value.new_empty((0, *value.shape[1:])),
            )
            self._make(index)
        return self._layers[index]

    def written(self, index: int) -> tuple[Tensor, Tensor]:
        """Of a layer that is made."""
        return self._layers[index]

    def make_again(self) -> None:
        """Make the layers that were used before memory was given back."""
        for index in self._likes:
            if index not in self._layers:
                self._make(index)

    def release(self) -> None:
        """Give the memory back; it is taken again when the layers are next used."""
        self._layers.clear()

    def _make(self, index: int) -> None:
        keys, values = (
            like.new_zeros((self._num_slots, *like.shape[1:])) for like in self._likes[index]
        )
        self.addresses[2 * index] = keys.data_ptr()
        self.addresses[2 * index + 1] = values.data_ptr()
        self._layers[index] = keys, values


@dataclass(frozen=True, slots=True, kw_only=True)
class _PaddedDrafts:
    """Drafts of similar length, attended to as one padded batch."""

    num_drafts: int
    num_queries: int
    """Q."""
    query_index: Tensor | None
    """(N * Q) place in the packed queries; padding points at any query; None: all, in order."""
    key_slots: Tensor
    """(N * K) slots of the keys; padding points at the draft's last key."""
    real_queries: Tensor | None
    """Those of the N * Q that are not padding; None when all are."""
    bias: Tensor | None
    """(N, 1, R * Q, K) added to the scores: -inf where a query may not attend; None when it
    always may."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _RaggedDrafts:
    """All drafts one after the other, for a kernel that takes rows of any lengths."""

    key_slots: Tensor
    query_ends: Tensor
    """(N + 1) int32, from 0."""
    key_ends: Tensor
    longest_query: int
    longest_key: int


@dataclass(frozen=True, slots=True)
class _ChunkView:
    """A chunk as the attention sees it."""

    first_query: int
    num_queries: int
    num_keys: int
    pages: Sequence[int]


class Pass(Protocol):
    """One forward pass of the model."""

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
        """Write the new keys and values (T, G, D), then attend with query (T, H, D); as query.

        With `window`, a query attends to so many keys at most, its own included. With `softcap`, a
        score s counts as softcap * tanh(s / softcap).
        """
        ...


class PagedPass:
    """One forward pass over chunks of drafts, of any sizes."""

    def __init__(self, chunks: Sequence[Chunk], cache: KeyValueCache) -> None:
        self.cache = cache
        self._page_size = page_size = cache.page_size
        self._device = device = cache.addresses.device
        self._rows: list[_ChunkView] = []
        self._groups: dict[int | None, list[_PaddedDrafts]] = {}
        self._ragged: _RaggedDrafts | None = None
        slots: list[Any] = []
        num_queries = 0
        for chunk in chunks:
            size = chunk.end - chunk.start
            pages = chunk.draft.pages
            self._rows.append(_ChunkView(num_queries, size, chunk.end, pages))
            num_queries += size
            slots.append(
                _slots(numpy.asarray(pages), numpy.arange(chunk.start, chunk.end), page_size)
            )
        self.slots = upload(numpy.concatenate(slots), device)
        """(T) of the new tokens."""
        self.addresses = cache.addresses

    @property
    def num_drafts(self) -> int:
        return len(self._rows)

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
        keys, values = self.cache.layer(layer, key, value)
        keys.index_copy_(0, self.slots, key)
        values.index_copy_(0, self.slots, value)
        needs_matrices = softcap is not None or query.shape[-1] != value.shape[-1]
        self.cache.needs_matrices |= needs_matrices
        if takes_any_lengths(query.device, query.dtype) and not needs_matrices:
            return self._attend_ragged(query, keys, values, scaling=scaling, window=window)
        groups = self._groups_within(
            window, heads_per_key_head=query.shape[1] // key.shape[1], dtype=query.dtype
        )
        return _attend(groups, query, keys, values, scaling=scaling, softcap=softcap)

    def attend_to_written(
        self, layer: int, query: Tensor, *, num_key_heads: int, scaling: float, window: int | None
    ) -> Tensor:
        """Attend with query (T, H, D) to what the cache holds, the new tokens included."""
        keys, values = self.cache.written(layer)
        return self._attend_ragged(query, keys, values, scaling=scaling, window=window)

    def _attend_ragged(
        self, query: Tensor, keys: Tensor, values: Tensor, *, scaling: float, window: int | None
    ) -> Tensor:
        """By the flash kernel under torch's variable-length attention; causal from the last key."""
        if self._ragged is None:
            self._ragged = self._make_ragged()
        ragged = self._ragged
        out, *_ = torch.ops.aten._flash_attention_forward(
            query,
            keys.index_select(0, ragged.key_slots),
            values.index_select(0, ragged.key_slots),
            ragged.query_ends,
            ragged.key_ends,
            ragged.longest_query,
            ragged.longest_key,
            0.0,
            True,
            False,
            scale=scaling,
            window_size_left=window - 1 if window else None,
            window_size_right=0 if window else None,
        )
        return out

    def _make_ragged(self) -> _RaggedDrafts:
        num_queries = [row.num_queries for row in self._rows]
        num_keys = [row.num_keys for row in self._rows]
        slots = [
            _slots(numpy.asarray(row.pages), numpy.arange(row.num_keys), self._page_size)
            for row in self._rows
        ]
        return _RaggedDrafts(
            key_slots=self._tensor(numpy.concatenate(slots)),
            query_ends=self._tensor(numpy.cumsum([0, *num_queries], dtype=numpy.int32)),
            key_ends=self._tensor(numpy.cumsum([0, *num_keys], dtype=numpy.int32)),
            longest_query=max(num_queries),
            longest_key=max(num_keys),
        )

    def _groups_within(
        self, window: int | None, *, heads_per_key_head: int, dtype: torch.dtype
    ) -> list[_PaddedDrafts]:
        """For the layers whose queries attend to at most `window` keys."""
        if window not in self._groups:
            members: dict[tuple[int, int], list[_ChunkView]] = {}
            for row in self._rows:
                num_keys = max(row.num_keys, _SHORTEST_PADDING)
                size = _next_power_of_2(row.num_queries), _next_power_of_2(num_keys)
                members.setdefault(size, []).append(row)
            self._groups[window] = [
                self._group(rows, window, heads_per_key_head, dtype) for rows in members.values()
            ]
        return self._groups[window]

    def _group(
        self,
        rows: Sequence[_ChunkView],
        window: int | None,
        heads_per_key_head: int,
        dtype: torch.dtype,
    ) -> _PaddedDrafts:
        if len(rows) == 1 and rows[0].num_queries == 1:
            return self._lone_query(rows[0], window)
        first_N1 = numpy.array([[row.first_query] for row in rows])
        num_queries_N1 = numpy.array([[row.num_queries] for row in rows])
        num_keys_N1 = numpy.array([[row.num_keys] for row in rows])
        offset_Q = numpy.arange(num_queries_N1.max())
        offset_K = numpy.arange(num_keys_N1.max())
        is_query_NQ = offset_Q < num_queries_N1
        # The last key of a draft is that of its last query.
        own_key_NQ1 = (num_keys_N1 - num_queries_N1 + offset_Q).clip(max=num_keys_N1 - 1)[..., None]
        is_allowed_NQK = offset_K <= own_key_NQ1
        if window is not None:
            is_allowed_NQK &= offset_K > own_key_NQ1 - window
        return _PaddedDrafts(
            num_drafts=len(rows),
            num_queries=len(offset_Q),
            query_index=self._query_index(first_N1 + offset_Q.clip(max=num_queries_N1 - 1)),
            key_slots=self._tensor(self._key_slots(rows, offset_K.clip(max=num_keys_N1 - 1))),
            real_queries=None
            if is_query_NQ.all()
            else self._tensor(is_query_NQ.ravel().nonzero()[0]),
            bias=self._bias(is_allowed_NQK, heads_per_key_head, dtype),
        )

    def _lone_query(self, row: _ChunkView, window: int | None) -> _PaddedDrafts:
        """It attends to all keys that there are, and nothing is padded."""
        first_key = 0 if window is None else max(0, row.num_keys - window)
        places = numpy.arange(first_key, row.num_keys)
        return _PaddedDrafts(
            num_drafts=1,
            num_queries=1,
            query_index=self._query_index(numpy.array([[row.first_query]])),
            key_slots=self._tensor(_slots(numpy.asarray(row.pages), places, self._page_size)),
            real_queries=None,
            bias=None,
        )

    def _query_index(self, index_NQ: Any) -> Tensor | None:
        index = index_NQ.ravel()
        if len(index) == len(self.slots) and (numpy.diff(index) == 1).all():
            return None
        return self._tensor(index)

    def _key_slots(self, rows: Sequence[_ChunkView], offset_NK: Any) -> Any:
        longest = max(len(row.pages) for row in rows)
        table = numpy.zeros((len(rows), longest), dtype=numpy.int64)
        for index, row in enumerate(rows):
            table[index, : len(row.pages)] = row.pages
        pages = numpy.take_along_axis(table, offset_NK // self._page_size, axis=1)
        return (pages * self._page_size + offset_NK % self._page_size).ravel()

    def _bias(
        self, is_allowed_NQK: Any, heads_per_key_head: int, dtype: torch.dtype
    ) -> Tensor | None:
        if is_allowed_NQK.all():
            return None
        is_forbidden = self._tensor(~is_allowed_NQK)
        is_forbidden = is_forbidden.repeat(1, heads_per_key_head, 1)[:, None]
        return torch.zeros_like(is_forbidden, dtype=dtype).masked_fill_(is_forbidden, -torch.inf)

    def _tensor(self, index: Any) -> Tensor:
        return upload(index, self._device)


def takes_any_lengths(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether torch's variable-length attention has a kernel for such queries."""
    return device.type == "cuda" and dtype != torch.float32


def _slots(pages: Any, places: Any, page_size: int) -> Any:
    return pages[places // page_size] * page_size + places % page_size


def _next_power_of_2(number: int) -> int:
    return 1 << (number - 1).bit_length()


def attend_to_pages(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    paged_pass: "Pass | None" = None,
    **extras: Any,
) -> tuple[Tensor, None]:
    """Write the new keys and values to the cache, then attend causally per draft.

    query (1, H, T, D); key and value (1, G, T, D). Returns (1, T, H, D), and no weights.
    Raises NotImplementedError for what it does not compute: a call without a pass, attention sinks,
    position biases.
    """
    if paged_pass is None:
        raise NotImplementedError(f"{GENERATION_ATTENTION} serves the engine of this package only")
    _refuse_unsupported(module, attention_mask, extras)
    query, key, value = (x[0].transpose(0, 1) for x in (query, key, value))
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    attended = paged_pass.attend(
        module.layer_idx,
        query,
        key,
        value,
        scaling=scale,
        window=sliding_window,
        softcap=softcap or None,
    )
    return attended[None], None


ALL_ATTENTION_FUNCTIONS.register(GENERATION_ATTENTION, attend_to_pages)


def _refuse_unsupported(module: Any, attention_mask: Tensor | None, extras: dict[str, Any]) -> None:
    names = [name for name in ("s_aux", "sinks", "position_bias") if extras.get(name) is not None]
    if getattr(module, "sinks", None) is not None:
        names.append("sinks")
    if attention_mask is not None:
        names.append("attention_mask")
    if names:
        raise NotImplementedError(
            f"{GENERATION_ATTENTION} does not compute {', '.join(names)}, which "
            f"{type(module).__name__} asks for"
        )


def _attend(
    groups: Sequence[_PaddedDrafts],
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    *,
    scaling: float,
    softcap: float | None,
) -> Tensor:
    """query (T, H, D); keys and values (slots, G, D). Returns (T, H, D)."""
    if len(groups) == 1 and groups[0].query_index is None:
        return _attend_group(groups[0], query, keys, values, scaling=scaling, softcap=softcap)
    output = torch.empty(
        (*query.shape[:2], values.shape[-1]), dtype=query.dtype, device=query.device
    )
    for group in groups:
        assert group.query_index is not None
        padded = query.index_select(0, group.query_index)
        attended = _attend_group(group, padded, keys, values, scaling=scaling, softcap=softcap)
        targets = group.query_index
        if group.real_queries is not None:
            attended = attended.index_select(0, group.real_queries)
            targets = targets.index_select(0, group.real_queries)
        output.index_copy_(0, targets, attended)
    return output


def _attend_group(
    group: _PaddedDrafts,
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    *,
    scaling: float,
    softcap: float | None,
) -> Tensor:
    """query (N * Q, H, D). Returns (N * Q, H, D).

    The R query heads of a key head are laid out as R * Q queries, so that keys are not repeated.
    """
    num_heads, head_size = query.shape[1:]
    keys, values = (
        x.index_select(0, group.key_slots).view(group.num_drafts, -1, *x.shape[1:]).transpose(1, 2)
        for x in (keys, values)
    )
    num_key_heads = keys.shape[1]
    if group.num_queries == 1 and softcap is None:
        query = query.view(group.num_drafts, num_key_heads, -1, head_size)
        attended = _attend_with_one(query, keys, values, bias=group.bias, scaling=scaling)
        return attended.reshape(group.num_drafts, num_heads, -1)
    query = query.view(group.num_drafts, group.num_queries, num_key_heads, -1, head_size)
    query = query.permute(0, 2, 3, 1, 4).flatten(2, 3)
    if softcap is None:
        attended = functional.scaled_dot_product_attention(
            query, keys, values, group.bias, scale=scaling
        )
    else:
        attended = _attend_capped(
            query, keys, values, bias=group.bias, scaling=scaling, softcap=softcap
        )
    attended = attended.unflatten(2, (-1, group.num_queries)).permute(0, 3, 1, 2, 4)
    return attended.reshape(group.num_drafts * group.num_queries, num_heads, -1)


def _attend_capped(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    *,
    bias: Tensor | None,
    scaling: float,
    softcap: float,
) -> Tensor:
    """query (N, G, R * Q, D), keys and values (N, G, K, D); as query. Scores are in float32."""
    num_scores = query.shape[0] * query.shape[1] * keys.shape[2]
    size = max(1, _MOST_SCORES // num_scores)
    parts = []
    for start in range(0, query.shape[2], size):
        rows = slice(start, start + size)
        scores = torch.matmul(query[:, :, rows], keys.transpose(2, 3)).float()
        scores = (scores * (scaling / softcap)).tanh_().mul_(softcap)
        if bias is not None:
            scores += bias[:, :, rows] if bias.shape[2] > 1 else bias
        parts.append(torch.matmul(scores.softmax(-1).to(values.dtype), values))
    return torch.cat(parts, dim=2)


def _attend_with_one(
    query: Tensor, keys: Tensor, values: Tensor, *, bias: Tensor | None, scaling: float
) -> Tensor:
    """One query per draft: query (N, G, R, D), keys and values (N, G, K, D); as query.

    Two matrix products take about half of the fused kernel's time on CPU for so few queries.
    """
    scores = torch.matmul(query * scaling, keys.contiguous().transpose(2, 3))
    if bias is not None:
        scores += bias
    return torch.matmul(scores.softmax(-1), values.contiguous())
