"""The training pass without padding, in which shared prompts are computed once.

Samples become paths through a forest of segments: what several prompts have in common is one
segment, the rest of each sample another. All segments lie in one flat row; each attends to itself
causally and to the segments that it continues. Only leading tokens that nobody trains are shared.
Owns the layout and the attention over it; log-probabilities and losses are elsewhere.

Shapes: T flat tokens, N trained tokens; in attention B rows, H query heads, J key heads, D head
size, Q queries, K keys.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from astuner.errors import BackboneError
from astuner.trajectory.samples import TrainSample

ATTENTION_NAME = "astuner_packed"
"""Under which transformers knows the attention of this file."""

MIN_SAVED_TOKENS = {"cpu": 16, "cuda": 1024}
"""A segment is shared where that saves so many tokens; below, its own kernel calls cost more.

By device; measured with 135M parameters on two CPU cores and 0.5B on one H100.
"""

_MIN_BUCKET_FILL = 0.8
"""Segments share one attention call while each is at least so long relative to the longest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """Consecutive tokens of the flat row that belong to the same samples."""

    start: int
    """Index of its first token in the flat row."""
    end: int
    """Behind its last token."""
    subtree_end: int
    """Behind the last token of all segments that continue it; they follow it without a gap."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """Segments of similar length, padded to one rectangle for attention within themselves."""

    source_BQ: Tensor
    """Flat index of each place; a place of padding repeats its segment's last token."""
    place_T: Tensor
    """The places that are not padding, as indices into the flattened rectangle."""
    flat_T: Tensor
    """The flat index of each of those places."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What the attention has to know about one packed batch."""

    buckets: tuple[Bucket, ...]
    """Every flat token is in exactly one of them."""
    shared: tuple[Segment, ...]
    """The segments that others continue."""
    position_T: Tensor
    """Position of each token in its samples."""
    longest_path: int
    """Tokens of the longest sample."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedBatch:
    """One micro-batch as the model sees it. All tensors are on one device.

    Behind its last trained token, and at that token itself, a sample needs no hidden state: these
    tokens are not in the row.
    """

    id_T: Tensor
    position_T: Tensor
    layout: Layout
    predictor_N: Tensor
    """Flat index of the token whose hidden state predicts the trained one."""
    target_N: Tensor
    """Id of the trained token."""
    sampled_logprob_N: Tensor
    """float32, as the sampler recorded it."""
    sample_N: Tensor
    """Index of the trained token's sample among those given to `pack`."""

    @property
    def num_tokens(self) -> int:
        return self.id_T.numel()


def pack(
    samples: Sequence[TrainSample], *, max_tokens: int, device: torch.device | str = "cpu"
) -> list[PackedBatch]:
    """Pack samples into micro-batches of at most `max_tokens` flat tokens each.

    Samples with common prompts are put together. A sample longer than `max_tokens` goes alone.
    """
    paths = [_path(index, sample) for index, sample in enumerate(samples)]
    paths.sort(key=lambda path: path.prompt)
    min_saved_tokens = MIN_SAVED_TOKENS.get(torch.device(device).type, 1024)
    overlaps = _worthwhile_overlaps([path.prompt for path in paths], min_saved_tokens)
    return [
        _packed_batch(samples, paths[first:end], [0, *overlaps[first + 1 : end]], device)
        for first, end in _cuts(paths, overlaps, max_tokens)
    ]


# --- The forest. It is kept as a list: how many leading tokens each path shares with the path
# before it, in an order in which paths with common prompts are neighbours.


@dataclass(frozen=True, slots=True)
class _Path:
    """The tokens of one sample that need hidden states."""

    sample: int
    ids: tuple[int, ...]
    prompt: tuple[int, ...]
    """Leading tokens that may be shared: those before the first trained one."""


def _path(index: int, sample: TrainSample) -> _Path:
    first_trained = sample.mask.index(True)
    last_trained = len(sample.mask) - 1 - sample.mask[::-1].index(True)
    return _Path(index, sample.ids[:last_trained], sample.ids[:first_trained])


def _worthwhile_overlaps(prompts: Sequence[tuple[int, ...]], min_saved_tokens: int) -> list[int]:
    """Of sorted prompts, the shared length with the prompt before, without the small branches.

    A branch whose segment would save fewer than `min_saved_tokens` ends where its parent ends.
    """
    overlaps = [0] + [_overlap(a, b) for a, b in itertools.pairwise(prompts)]
    pending = [(0, len(prompts), 0)]
    while pending:
        first, end, parent_depth = pending.pop()
        if end - first < 2:
            continue
        depth = min(overlaps[first + 1 : end])
        splits = [i for i in range(first + 1, end) if overlaps[i] == depth]
        if len(splits) * (depth - parent_depth) < min_saved_tokens:
            depth = parent_depth
            for split in splits:
                overlaps[split] = depth
        edges = [first, *splits, end]
        pending += [(a, b, depth) for a, b in itertools.pairwise(edges)]
    return overlaps


def _overlap(first: Sequence[int], second: Sequence[int]) -> int:
    for depth, (a, b) in enumerate(zip(first, second, strict=False)):
        if a != b:
            return depth
    return min(len(first), len(second))


def _cuts(
    paths: Sequence[_Path], overlaps: Sequence[int], max_tokens: int
) -> Iterator[tuple[int, int]]:
    """First and end of each micro-batch."""
    first, num_tokens = 0, 0
    for index, path in enumerate(paths):
        if index > first and num_tokens + len(path.ids) - overlaps[index] > max_tokens:
            yield first, index
            first, num_tokens = index, 0
        num_tokens += len(path.ids) - (overlaps[index] if index > first else 0)
    if paths:
        yield first, len(paths)


def _packed_batch(
    samples: Sequence[TrainSample],
    paths: Sequence[_Path],
    overlaps: Sequence[int],
    device: torch.device | str,
) -> PackedBatch:
    row = _FlatRow()
    for index, path in enumerate(paths):
        row.close_deeper_than(overlaps[index])
        for depth in _branch_depths(overlaps, index):
            row.open(path.ids, depth)
        row.add_leaf(path, samples[path.sample])
    row.close_deeper_than(0)

    def tensor(values: list[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.long, device=device)

    position_T = tensor(row.positions)
    return PackedBatch(
        id_T=tensor(row.ids),
        position_T=position_T,
        layout=Layout(
            buckets=tuple(_buckets(row.segments, device)),
            shared=tuple(s for s in row.segments if s.subtree_end > s.end),
            position_T=position_T,
            longest_path=max(row.positions) + 1,
        ),
        predictor_N=tensor(row.predictors),
        target_N=tensor(row.targets),
        sampled_logprob_N=torch.tensor(row.logprobs, dtype=torch.float32, device=device),
        sample_N=tensor(row.sample_indices),
    )


def _branch_depths(overlaps: Sequence[int], index: int) -> list[int]:
    """Ascending depths at which segments end that this path is the first one to enter."""
    depths: list[int] = []
    for overlap in overlaps[index + 1 :]:
        if overlap <= overlaps[index]:
            break
        if not depths or overlap < depths[-1]:
            depths.append(overlap)
    return depths[::-1]


class _FlatRow:
    """Lays paths out one after the other. Owns the lists that become a PackedBatch."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.positions: list[int] = []
        self.segments: list[Segment] = []
        self.predictors: list[int] = []
        self.targets: list[int] = []
        self.logprobs: list[float] = []
        self.sample_indices: list[int] = []
        self._open: list[tuple[int, int, int]] = []
        """Start and end in the row, and depth of the end, of the segments being continued."""

    @property
    def _depth(self) -> int:
        return self._open[-1][2] if self._open else 0

    def open(self, ids: Sequence[int], depth: int) -> None:
        start = len(self.ids)
        self._append(ids, depth)
        self._open.append((start, len(self.ids), depth))

    def close_deeper_than(self, depth: int) -> None:
        while self._depth > depth:
            start, end, _ = self._open.pop()
            self.segments.append(Segment(start=start, end=end, subtree_end=len(self.ids)))

    def add_leaf(self, path: _Path, sample: TrainSample) -> None:
        """Add what is left of the path behind the open segments, and its trained tokens."""
        # A hidden state at position p of the leaf lies at `shift + p`; the one before the leaf is
        # the last token of the innermost open segment.
        parent_depth, shift = self._depth, len(self.ids) - self._depth
        last_shared = self._open[-1][1] - 1 if self._open else -1
        if len(path.ids) > parent_depth:
            start = len(self.ids)
            self._append(path.ids, len(path.ids))
            end = len(self.ids)
            self.segments.append(Segment(start=start, end=end, subtree_end=end))
        for position, is_trained in enumerate(sample.mask):
            if not is_trained:
                continue
            before = position - 1
            self.predictors.append(shift + before if before >= parent_depth else last_shared)
            self.targets.append(sample.ids[position])
            self.logprobs.append(sample.logprobs[position])
            self.sample_indices.append(path.sample)

    def _append(self, ids: Sequence[int], end_depth: int) -> None:
        self.positions += range(self._depth, end_depth)
        self.ids += ids[self._depth : end_depth]


def _buckets(segments: Sequence[Segment], device: torch.device | str) -> Iterator[Bucket]:
    pending = sorted(segments, key=lambda segment: segment.start - segment.end)
    while pending:
        longest = pending[0].end - pending[0].start
        members = [s for s in pending if s.end - s.start >= _MIN_BUCKET_FILL * longest]
        pending = pending[len(members) :]
        start_B = torch.tensor([s.start for s in members], device=device)
        last_B = torch.tensor([s.end - 1 for s in members], device=device)
        place_BQ = start_B[:, None] + torch.arange(longest, device=device)
        is_real_BQ = place_BQ <= last_B[:, None]
        source_BQ = torch.minimum(place_BQ, last_B[:, None])
        yield Bucket(
            source_BQ=source_BQ,
            place_T=is_real_BQ.flatten().nonzero().squeeze(1),
            flat_T=source_BQ[is_real_BQ],
        )


# --- Attention over the forest


@contextmanager
def packed_attention_enabled(model: PreTrainedModel) -> Iterator[None]:
    """Let the model attend by the layout given to its forward as `packed_layout`.

    The attention that was set before is set again afterwards. The model must not generate
    meanwhile. Raises BackboneError for a model whose attention cannot be replaced.
    """
    before = model.config._attn_implementation or "sdpa"
    model.set_attn_implementation(ATTENTION_NAME)
    try:
        if model.config._attn_implementation != ATTENTION_NAME:
            raise BackboneError(
                f"training pass failed: the attention of {type(model).__name__} cannot be "
                "replaced; use a model such as Llama, Qwen, Gemma or Mistral"
            )
        yield
    finally:
        model.set_attn_implementation(before)


def packed_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    packed_layout: Layout | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention of one layer over a packed row, with the signature that transformers calls.

    Query (1, H, T, D), key and value (1, J, T, D), result (1, T, H, D). Raises BackboneError where
    the layer asks for something that is not supported, or the layout did not arrive.
    """
    unsupported = {
        "attention sinks": s_aux is not None,
        "dropout": dropout > 0,
        "a mask of its own": attention_mask is not None,
        "a missing layout": packed_layout is None,
    }
    if any(unsupported.values()) or packed_layout is None:
        what = ", ".join(name for name, is_asked in unsupported.items() if is_asked)
        raise BackboneError(
            f"training pass failed in {type(module).__name__}: packed attention met {what}; "
            "use a model with plain decoder attention, such as Llama, Qwen or Mistral"
        )
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    window = sliding_window if sliding_window and sliding_window < packed_layout.longest_path else 0
    is_plain = not window and not softcap and query.shape[-1] == value.shape[-1]
    kernel: _Kernel
    if is_plain and query.device.type == "cpu":
        kernel = _FlashOnCPU(scale=scale)
    elif is_plain and query.is_cuda and query.dtype in (torch.bfloat16, torch.float16):
        kernel = _FlashOnGPU(scale=scale, dtype=query.dtype)
    else:
        kernel = _Matmul(scale=scale, window=window or None, softcap=softcap)
    output_THD = _ForestAttention.apply(
        query[0].transpose(0, 1),
        key[0].transpose(0, 1),
        value[0].transpose(0, 1),
        packed_layout,
        kernel,
    )
    return output_THD[None], None


ALL_ATTENTION_FUNCTIONS.register(ATTENTION_NAME, packed_attention)


class _Inputs(NamedTuple):
    """Queries, keys and values, or their gradients."""

    query: Tensor
    key: Tensor
    value: Tensor


class _Attended(NamedTuple):
    """Values averaged by attention, and the log-sum-exp of the scores of each query."""

    out: Tensor
    lse: Tensor
    """float32; -inf where a query sees no key."""


class _ForestAttention(torch.autograd.Function):
    """Attends within segments first, then adds what each shared segment gives to those behind it.

    The parts are joined by their log-sum-exp, and share the one of the whole in the backward pass,
    as in ring attention, arXiv 2310.01889.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query_THD: Tensor,
        key_TJD: Tensor,
        value_TJD: Tensor,
        layout: Layout,
        kernel: "_Kernel",
    ) -> Tensor:
        given = _Inputs._make(x.to(kernel.dtype) for x in (query_THD, key_TJD, value_TJD))
        out_THD = given.query.new_empty(
            (*query_THD.shape[:2], value_TJD.shape[2]), dtype=torch.float32
        )
        lse_TH = given.query.new_empty(query_THD.shape[:2], dtype=torch.float32)
        for bucket in layout.buckets:
            inputs = _Inputs._make(_rows(x, bucket) for x in given)
            part = kernel.forward(inputs, _causal_span(bucket))
            out_THD.index_copy_(0, bucket.flat_T, _flat(part.out.float(), bucket))
            lse_TH.index_copy_(0, bucket.flat_T, _flat(part.lse, bucket))
        for segment in layout.shared:
            later = _own_and_later(segment)[1]
            inputs = _inputs_of_later(given, segment)
            part = kernel.forward(inputs, _span_of_later(layout, segment))
            _merge(out_THD[later], lse_TH[later], part)
        result_THD = out_THD.to(query_THD.dtype)
        ctx.save_for_backward(query_THD, key_TJD, value_TJD, result_THD, lse_TH)
        ctx.layout, ctx.kernel = layout, kernel
        return result_THD

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        *originals, result_THD, lse_TH = ctx.saved_tensors
        layout: Layout = ctx.layout
        kernel: _Kernel = ctx.kernel
        given = _Inputs._make(x.to(kernel.dtype) for x in originals)
        grad_THD, out_THD = (x.to(kernel.dtype) for x in (grads[0], result_THD))
        sums = _Inputs._make(torch.zeros_like(x, dtype=torch.float32) for x in originals)
        for bucket in layout.buckets:
            parts = kernel.backward(
                _without_padding(_rows(grad_THD, bucket), bucket),
                _Inputs._make(_rows(x, bucket) for x in given),
                _Attended(_rows(out_THD, bucket), _rows(lse_TH, bucket)),
                _causal_span(bucket),
            )
            for total, part in zip(sums, parts, strict=True):
                total.index_copy_(0, bucket.flat_T, _flat(part.float(), bucket))
        for segment in layout.shared:
            own, later = _own_and_later(segment)
            parts = kernel.backward(
                _one_row(grad_THD[later]),
                _inputs_of_later(given, segment),
                _Attended(_one_row(out_THD[later]), _one_row(lse_TH[later])),
                _span_of_later(layout, segment),
            )
            for total, part, place in zip(sums, parts, (later, own, own), strict=True):
                total[place] += part[0].transpose(0, 1)
        gradients = (total.to(x.dtype) for total, x in zip(sums, originals, strict=True))
        return (*gradients, None, None)


def _own_and_later(segment: Segment) -> tuple[slice, slice]:
    return slice(segment.start, segment.end), slice(segment.end, segment.subtree_end)


def _inputs_of_later(given: _Inputs, segment: Segment) -> _Inputs:
    """Queries of the segments that continue this one, with its keys and values, as one row."""
    own, later = _own_and_later(segment)
    return _Inputs(
        _one_row(given.query[later]), _one_row(given.key[own]), _one_row(given.value[own])
    )


def _span_of_later(layout: Layout, segment: Segment) -> "_Span":
    own, later = _own_and_later(segment)
    return _Span(layout.position_T[later], layout.position_T[own], is_causal=False)


def _one_row(x_TH: Tensor) -> Tensor:
    """(T, H, ...) to (1, H, T, ...), without a copy."""
    return x_TH.transpose(0, 1)[None]


def _rows(x_TH: Tensor, bucket: Bucket) -> Tensor:
    """(T, H, ...) to (B, H, Q, ...)."""
    rows = x_TH.index_select(0, bucket.source_BQ.flatten())
    return rows.view(*bucket.source_BQ.shape, *x_TH.shape[1:]).transpose(1, 2)


def _flat(x_BHQ: Tensor, bucket: Bucket) -> Tensor:
    """The places of (B, H, Q, ...) that are not padding, as (T, H, ...)."""
    return x_BHQ.transpose(1, 2).flatten(0, 1).index_select(0, bucket.place_T)


def _without_padding(x_BHQ: Tensor, bucket: Bucket) -> Tensor:
    """The same with zeros on padding, so that it sends no gradient to keys and values."""
    is_real = torch.zeros(bucket.source_BQ.numel(), dtype=x_BHQ.dtype, device=x_BHQ.device)
    is_real[bucket.place_T] = 1
    return x_BHQ * is_real.view(bucket.source_BQ.shape)[:, None, :, None]


def _merge(out_THD: Tensor, lse_TH: Tensor, part: _Attended) -> None:
    """Add, in place, attention over further keys to attention over earlier ones."""
    part_lse_TH = part.lse[0].transpose(0, 1)
    weight_TH = torch.sigmoid(part_lse_TH - lse_TH)
    out_THD.lerp_(part.out[0].transpose(0, 1).float(), weight_TH[..., None])
    torch.logaddexp(lse_TH, part_lse_TH, out=lse_TH)


@dataclass(frozen=True, slots=True)
class _Span:
    """Positions of queries and keys of one kernel call."""

    query_Q: Tensor
    key_K: Tensor
    is_causal: bool
    """Whether some keys lie behind queries; then both count the same tokens."""


def _causal_span(bucket: Bucket) -> _Span:
    places_Q = torch.arange(bucket.source_BQ.shape[1], device=bucket.source_BQ.device)
    return _Span(places_Q, places_Q, is_causal=True)


class _Kernel(Protocol):
    """Attention of B rows of queries (B, H, Q, D) to B rows of keys (B, J, K, D)."""

    dtype: torch.dtype
    """Of queries, keys, values, outputs and their gradients."""

    def forward(self, inputs: _Inputs, span: _Span) -> _Attended: ...

    def backward(
        self, grad_BHQD: Tensor, inputs: _Inputs, attended: _Attended, span: _Span
    ) -> _Inputs:
        """Gradients of the inputs.

        `attended` is about *all* keys of each query; the given keys may be a part of them. The
        gradients of all parts add up to those of the whole.
        """
        ...


class _FlashOnCPU:
    """The kernel under torch's scaled_dot_product_attention on CPU.

    Called directly because the public function gives no log-sum-exp. In float32: its bfloat16
    backward is 4 times slower on segments of tens of tokens.
    """

    dtype = torch.float32

    def __init__(self, *, scale: float) -> None:
        self._scale = scale

    def forward(self, inputs: _Inputs, span: _Span) -> _Attended:
        return _Attended._make(
            torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
                *inputs, 0.0, span.is_causal, scale=self._scale
            )
        )

    def backward(
        self, grad_BHQD: Tensor, inputs: _Inputs, attended: _Attended, span: _Span
    ) -> _Inputs:
        return _Inputs._make(
            torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
                grad_BHQD, *inputs, *attended, 0.0, span.is_causal, scale=self._scale
            )
        )


class _FlashOnGPU:
    """The kernel under torch's scaled_dot_product_attention on CUDA, for half precision."""

    def __init__(self, *, scale: float, dtype: torch.dtype) -> None:
        self._scale = scale
        self.dtype = dtype

    def forward(self, inputs: _Inputs, span: _Span) -> _Attended:
        out, lse, *_ = torch.ops.aten._scaled_dot_product_flash_attention(
            *inputs, 0.0, span.is_causal, scale=self._scale
        )
        return _Attended(out, lse)

    def backward(
        self, grad_BHQD: Tensor, inputs: _Inputs, attended: _Attended, span: _Span
    ) -> _Inputs:
        # Empty: lengths of ragged rows, of which there are none, and the state of dropout.
        empty = torch.empty(0, dtype=torch.int64, device=grad_BHQD.device)
        return _Inputs._make(
            torch.ops.aten._scaled_dot_product_flash_attention_backward(
                grad_BHQD,
                *inputs,
                attended.out,
                attended.lse.contiguous(),
                None,
                None,
                inputs.query.shape[2],
                inputs.key.shape[2],
                0.0,
                span.is_causal,
                empty,
                empty,
                scale=self._scale,
            )
        )


class _Matmul:
    """Scores as a matrix: any device, sliding windows and soft-capped scores.

    G is the query heads of each key head.
    """

    dtype = torch.float32

    def __init__(self, *, scale: float, window: int | None, softcap: float | None) -> None:
        self._scale = scale
        self._window = window
        self._softcap = softcap

    def forward(self, inputs: _Inputs, span: _Span) -> _Attended:
        score_BJGQK = self._scores(inputs, span)
        lse_BJGQ = score_BJGQK.logsumexp(-1)
        # A query that sees no key has lse -inf; any finite number in its place gives it zeros.
        share_BJGQK = (score_BJGQK - lse_BJGQ.clamp_min(-1e30)[..., None]).exp()
        out_BJGQD = share_BJGQK @ inputs.value[:, :, None]
        return _Attended(out_BJGQD.flatten(1, 2), lse_BJGQ.flatten(1, 2))

    def backward(
        self, grad_BHQD: Tensor, inputs: _Inputs, attended: _Attended, span: _Span
    ) -> _Inputs:
        query_BJGQD, grad_BJGQD = (_grouped(x, inputs.key) for x in (inputs.query, grad_BHQD))
        score_BJGQK = self._scores(inputs, span)
        share_BJGQK = (score_BJGQK - _grouped(attended.lse, inputs.key)[..., None]).exp()
        mean_BJGQ = _grouped((grad_BHQD * attended.out).sum(-1), inputs.key)
        grad_share_BJGQK = grad_BJGQD @ inputs.value[:, :, None].mT
        grad_score_BJGQK = share_BJGQK * (grad_share_BJGQK - mean_BJGQ[..., None])
        if self._softcap:
            slope_BJGQK = 1 - (score_BJGQK / self._softcap).square()
            grad_score_BJGQK = (grad_score_BJGQK * slope_BJGQK).masked_fill(share_BJGQK == 0, 0)
        grad_query_BJGQD = grad_score_BJGQK @ inputs.key[:, :, None] * self._scale
        grad_key_BJGKD = grad_score_BJGQK.mT @ query_BJGQD * self._scale
        grad_value_BJGKD = share_BJGQK.mT @ grad_BJGQD
        return _Inputs(
            grad_query_BJGQD.flatten(1, 2), grad_key_BJGKD.sum(2), grad_value_BJGKD.sum(2)
        )

    def _scores(self, inputs: _Inputs, span: _Span) -> Tensor:
        """(B, J, G, Q, K), -inf where the query does not see the key."""
        score_BJGQK = _grouped(inputs.query, inputs.key) @ inputs.key[:, :, None].mT * self._scale
        if self._softcap:
            score_BJGQK = (score_BJGQK / self._softcap).tanh() * self._softcap
        distance_QK = span.query_Q[:, None] - span.key_K
        is_hidden_QK = distance_QK < 0
        if self._window:
            is_hidden_QK |= distance_QK >= self._window
        return score_BJGQK.masked_fill(is_hidden_QK, -math.inf)


def _grouped(x_BHQ: Tensor, key_BJKD: Tensor) -> Tensor:
    """(B, H, Q, ...) to (B, J, G, Q, ...)."""
    return x_BHQ.unflatten(1, (key_BJKD.shape[1], -1))
