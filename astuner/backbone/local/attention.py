"""Attention for generation: every request of a continuous batch attends to its own keys only.

Owns the attention function that the model uses while it samples, on any device, and the one place
that knows how the paged key-value cache differs between releases of transformers (5.17 to 5.23).
Training has its own attention.

Shapes: T queries of the packed batch, S keys of the packed batch, N requests of one group,
Q and K most queries and keys of a request in that group, H query heads, G key heads,
R = H / G, D head size.
"""

import inspect
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn import functional
from transformers.generation.continuous_batching.cache import PagedAttentionCache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

GENERATION_ATTENTION = "astuner_paged"
"""Name under which the function is registered. Without the letters "flash" or the prefix "paged|",
to which transformers gives a meaning of its own."""

_SHORTEST_PADDING = 64
"""Requests with at most this many keys share one group: a padded key costs less than a call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Group:
    """Requests of similar length, attended to as one padded batch."""

    num_requests: int
    num_queries: int
    """Q."""
    num_keys: int
    """K."""
    query_index: Tensor
    """(N * Q) position in the packed queries; padding points at any query."""
    key_index: Tensor
    """(N * K) position in the packed keys; padding points at any key."""
    real_queries: Tensor | None
    """Those of the N * Q that are not padding; None when all are."""
    bias: Tensor | None
    """(N, 1, R * Q, K) added to the scores: -inf where a query may not attend; None when it
    always may."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """How to attend in the layers of one type, in one forward pass."""

    groups: list[_Group]
    key_index: Tensor
    """Those of all groups, one after the other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layer:
    """What the cache knows of a layer."""

    allocator: int
    """Index of its entries in `read_index` and `write_index`."""
    window: int | None
    """Most keys that a query attends to, its own included; None for all of them."""


class _Forward:
    """Indices shared by the layers of one forward pass."""

    def __init__(self, query_ends: Tensor) -> None:
        self.query_ends = query_ends
        self.plans: dict[int | None, _Plan] = {}
        """By window."""
        self._padded_positions: dict[int, Tensor] = {}

    def padded_positions(self, layer: _Layer, plan: _Plan, positions: Tensor) -> Tensor:
        """Where in the cache the keys of `plan.key_index` lie."""
        if layer.allocator not in self._padded_positions:
            self._padded_positions[layer.allocator] = positions.index_select(0, plan.key_index)
        return self._padded_positions[layer.allocator]


_forwards: WeakKeyDictionary[Any, _Forward] = WeakKeyDictionary()
"""The latest forward pass by cache. A cache serves one thread."""


def attend_per_request(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    cache: Any = None,
    cu_seq_lens_q: Any = None,
    cu_seq_lens_k: Any = None,
    read_index: Any = None,
    write_index: Any = None,
    **extras: Any,
) -> tuple[Tensor, None]:
    """Write the new keys and values to the paged cache, then attend causally per request.

    query (1, H, T, D); key and value (1, G, T, D). Returns (1, T, H, D), and no weights.
    The keyword arguments are those that continuous batching hands down to every layer.
    Raises NotImplementedError for what it does not compute: a call without continuous batching,
    logit caps, attention sinks, position biases, block tables.
    """
    if cache is None:
        raise NotImplementedError(f"{GENERATION_ATTENTION} serves continuous batching only")
    layer = _layer_of(cache, module.layer_idx)
    forward = _forwards.get(cache)
    if forward is None or forward.query_ends is not cu_seq_lens_q:
        _refuse_unsupported(module, attention_mask, extras)
        forward = _forwards[cache] = _Forward(cu_seq_lens_q)
    if layer.window not in forward.plans:
        forward.plans[layer.window] = _plan(
            cu_seq_lens_q,
            _of_layer_type(cu_seq_lens_k, layer),
            window=layer.window,
            heads_per_key_head=query.shape[1] // key.shape[1],
            dtype=query.dtype,
        )
    plan = forward.plans[layer.window]
    positions = read_index[layer.allocator]
    # A full-attention layer can read its keys in padded order at once. A windowed one cannot: its
    # cache places the new keys by their order among those read.
    is_direct = layer.window is None and positions.numel() > 0
    if is_direct:
        positions = forward.padded_positions(layer, plan, positions)
    new = key[0].transpose(0, 1), value[0].transpose(0, 1)
    keys, values = _update(cache, *new, module.layer_idx, positions, write_index)
    if not is_direct:
        keys, values = (x.index_select(0, plan.key_index) for x in (keys, values))
    query = query[0].transpose(0, 1)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return _attend(plan, query, keys, values, scaling=scale)[None], None


def _refuse_unsupported(module: Any, attention_mask: Tensor | None, extras: dict[str, Any]) -> None:
    names = [
        name
        for name in ("softcap", "s_aux", "sinks", "position_bias", "block_table")
        if extras.get(name) is not None
    ]
    if getattr(module, "sinks", None) is not None:
        names.append("sinks")
    if attention_mask is not None:
        names.append("attention_mask")
    if names:
        raise NotImplementedError(
            f"{GENERATION_ATTENTION} does not compute {', '.join(names)}, which "
            f"{type(module).__name__} asks for"
        )


def _attend(plan: _Plan, query: Tensor, keys: Tensor, values: Tensor, *, scaling: float) -> Tensor:
    """query (T, H, D); keys and values in the order of `plan.key_index`. Returns (T, H, D)."""
    if len(plan.groups) == 1 and plan.groups[0].real_queries is None:
        return _attend_group(plan.groups[0], query, keys, values, scaling=scaling)
    output = torch.empty_like(query)
    start = 0
    for group in plan.groups:
        end = start + group.num_requests * group.num_keys
        padded = query.index_select(0, group.query_index)
        attended = _attend_group(group, padded, keys[start:end], values[start:end], scaling=scaling)
        targets = group.query_index
        if group.real_queries is not None:
            attended = attended.index_select(0, group.real_queries)
            targets = targets.index_select(0, group.real_queries)
        output.index_copy_(0, targets, attended)
        start = end
    return output


def _attend_group(
    group: _Group, query: Tensor, keys: Tensor, values: Tensor, *, scaling: float
) -> Tensor:
    """query (N * Q, H, D), keys and values (N * K, G, D). Returns (N * Q, H, D).

    The R query heads of a key head are laid out as R * Q queries, so that keys are not repeated.
    """
    num_heads, head_size = query.shape[1:]
    per_request = (group.num_requests, -1, keys.shape[1], head_size)
    keys, values = (x.view(per_request).transpose(1, 2) for x in (keys, values))
    if group.num_queries == 1:
        query = query.view(group.num_requests, keys.shape[1], -1, head_size)
        attended = _attend_with_one(query, keys, values, bias=group.bias, scaling=scaling)
        return attended.view(-1, num_heads, head_size)
    query = query.view(group.num_requests, group.num_queries, keys.shape[1], -1, head_size)
    attended = functional.scaled_dot_product_attention(
        query.permute(0, 2, 3, 1, 4).flatten(2, 3), keys, values, group.bias, scale=scaling
    )
    attended = attended.unflatten(2, (-1, group.num_queries)).permute(0, 3, 1, 2, 4)
    return attended.reshape(-1, num_heads, head_size)


def _attend_with_one(
    query: Tensor, keys: Tensor, values: Tensor, *, bias: Tensor | None, scaling: float
) -> Tensor:
    """One query per request: query (N, G, R, D), keys and values (N, G, K, D); as query.

    Two matrix products take about half of the fused kernel's time on CPU for so few queries.
    """
    scores = torch.matmul(query * scaling, keys.contiguous().transpose(2, 3))
    if bias is not None:
        scores += bias
    return torch.matmul(scores.softmax(-1), values.contiguous())


def _plan(query_ends: Tensor, key_ends: Tensor, **layout: Any) -> _Plan:
    """Group the requests so that padding at most doubles their queries and keys.

    `layout` goes to `_group`.
    """
    query_ends_list, key_ends_list = query_ends.tolist(), key_ends.tolist()
    members: dict[tuple[int, int], list[tuple[int, int, int, int]]] = {}
    for i in range(len(query_ends_list) - 1):
        query_start, query_end = query_ends_list[i : i + 2]
        key_start, key_end = key_ends_list[i : i + 2]
        num_queries, num_keys = query_end - query_start, key_end - key_start
        if num_queries == 0:
            continue
        size = _next_power_of_2(num_queries), _next_power_of_2(max(num_keys, _SHORTEST_PADDING))
        members.setdefault(size, []).append((query_start, num_queries, key_start, num_keys))
    groups = [
        _group(torch.tensor(rows, device=query_ends.device), **layout) for rows in members.values()
    ]
    return _Plan(groups=groups, key_index=torch.cat([group.key_index for group in groups]))


def _group(
    rows: Tensor, *, window: int | None, heads_per_key_head: int, dtype: torch.dtype
) -> _Group:
    """rows (N, 4): first query, number of queries, first key and number of keys of a request."""
    query_starts, num_queries, key_starts, num_keys = rows[:, :, None].unbind(1)
    query_offsets = torch.arange(int(num_queries.max()), device=rows.device)
    key_offsets = torch.arange(int(num_keys.max()), device=rows.device)
    is_query = (query_offsets < num_queries).flatten()
    # The last key of a request is that of its last query.
    own_key = (num_keys - num_queries + query_offsets).clamp(max=num_keys - 1)[:, :, None]
    is_allowed = key_offsets <= own_key
    if window is not None:
        is_allowed &= key_offsets > own_key - window
    bias = None
    if not bool(is_allowed.all()):
        is_forbidden = ~is_allowed.repeat(1, heads_per_key_head, 1)[:, None]
        bias = torch.zeros_like(is_forbidden, dtype=dtype).masked_fill_(is_forbidden, -torch.inf)
    return _Group(
        num_requests=len(rows),
        num_queries=len(query_offsets),
        num_keys=len(key_offsets),
        query_index=(query_starts + query_offsets.clamp(max=num_queries - 1)).flatten(),
        key_index=(key_starts + torch.minimum(key_offsets, num_keys - 1)).flatten(),
        real_queries=None if bool(is_query.all()) else is_query.nonzero()[:, 0],
        bias=bias,
    )


def _next_power_of_2(number: int) -> int:
    return 1 << (number - 1).bit_length()


def _of_layer_type(per_type: Any, layer: _Layer) -> Tensor:
    if not isinstance(per_type, dict):
        return per_type
    return per_type["full_attention" if layer.window is None else "sliding_attention"]


def _layer_of(cache: Any, layer_idx: int) -> _Layer:
    if hasattr(cache, "layer_to_allocator"):  # since transformers 5.18
        allocator = cache.layer_to_allocator[layer_idx]
        return _Layer(allocator=allocator.index, window=getattr(allocator, "sliding_window", None))
    group, _ = cache.layer_index_to_group_indices[layer_idx]
    window = cache.sliding_windows[layer_idx]
    return _Layer(allocator=group, window=None if window == 1 else window)


def _update(
    cache: Any,
    key: Tensor,
    value: Tensor,
    layer_idx: int,
    read_positions: Tensor,
    write_index: Any,
) -> tuple[Tensor, Tensor]:
    """Write new keys and values (T, G, D), return those at `read_positions`; if none, the new."""
    if not _CACHE_TAKES_INDICES:
        allocator = cache.layer_to_allocator[layer_idx]
        return allocator.update(key, value, layer_idx, read_positions, write_index[allocator.index])
    return cache.update(
        key.transpose(0, 1)[None],
        value.transpose(0, 1)[None],
        layer_idx,
        {_layer_of(cache, layer_idx).allocator: read_positions},
        write_index,
    )


_cache_class: Any = PagedAttentionCache
_CACHE_TAKES_INDICES = "read_index" in inspect.signature(_cache_class.update).parameters
"""Until transformers 5.18."""

ALL_ATTENTION_FUNCTIONS.register(GENERATION_ATTENTION, attend_per_request)
