"""The training pass without padding, in which shared prompts are computed once.

Samples become paths through a forest of segments: what several prompts have in common is one
segment, the rest of each sample another. All segments lie in one flat row; each attends to itself
causally and to the segments that it continues. Only leading tokens that nobody trains are shared.
Owns the layout; the attention over it is in `packed_attention.py`, log-probabilities and losses are
elsewhere.

Three samples that begin with the same system prompt s, two of them with the same question q behind
it, as a forest and as the flat row:

    s ─┬─ q ─┬─ a          row         s s s s q q q a a b c c c
       │     └─ b          index       0       4     7   9 10     13
       └─ c                position    0 1 2 3 4 5 6 7 8 7 4 5 6

    segment   start   end   subtree_end
    s         0       4     13            continued by all behind it, up to 13
    q         4       7     10            continued by a and b
    a         7       9     9
    b         9       10    10
    c         10      13    13

A token of b attends to b up to itself, to all of q and to all of s; one of c to c and s. Of 24
tokens that need a hidden state in the three samples, the row has 13.

Shapes: T flat tokens, N trained tokens; B segments of one bucket, Q tokens of the longest.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy
import torch
from torch import Tensor

from astuner.trajectory.samples import AdvantageRun, TrainSample

MIN_SAVED_TOKENS = {"cpu": 16, "cuda": 64}
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
class Ragged:
    """Rows of any lengths, one after the other, for kernels that take them so."""

    ends: Tensor
    """int32, from 0: where each row ends."""
    longest: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """Shared segments of which none continues another, each with all that continues it."""

    query_flat: Tensor
    """Flat indices of the tokens that continue them."""
    query: Ragged
    key_flat: Tensor
    """Flat indices of the segments' own tokens."""
    key: Ragged


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What the attention has to know about one packed batch."""

    segments: tuple[Segment, ...]
    """They follow each other without a gap when sorted by their start."""
    position_T: Tensor
    """Position of each token in its samples."""
    longest_path: int
    """Tokens of the longest sample."""

    @cached_property
    def shared(self) -> tuple[Segment, ...]:
        """The segments that others continue."""
        return tuple(segment for segment in self.segments if segment.subtree_end > segment.end)

    @cached_property
    def buckets(self) -> tuple[Bucket, ...]:
        """Every flat token is in exactly one of them."""
        return tuple(_buckets(self.segments, self.position_T.device))

    @cached_property
    def rows(self) -> Ragged:
        """The segments as rows, in the order of the flat row."""
        spans = sorted((segment.start, segment.end) for segment in self.segments)
        return _ragged(spans, self.position_T.device)

    @cached_property
    def levels(self) -> tuple[Level, ...]:
        """The shared segments, the outermost first."""
        return tuple(_levels(self.shared, self.position_T.device))


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
    advantage_N: Tensor
    """float32."""

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
        return torch.from_numpy(numpy.array(values, dtype=numpy.int64)).to(device)

    position_T = tensor(row.positions)
    return PackedBatch(
        id_T=tensor(row.ids),
        position_T=position_T,
        layout=Layout(
            segments=tuple(row.segments),
            position_T=position_T,
            longest_path=max(row.positions) + 1,
        ),
        predictor_N=tensor(row.predictors),
        target_N=tensor(row.targets),
        sampled_logprob_N=torch.from_numpy(numpy.array(row.logprobs, dtype=numpy.float32)).to(
            device
        ),
        sample_N=tensor(row.sample_indices),
        advantage_N=_repeated(row.advantage_runs).to(device),
    )


def _repeated(runs: Sequence[AdvantageRun]) -> Tensor:
    lengths, values = zip(*runs, strict=True)
    return torch.from_numpy(numpy.repeat(numpy.array(values, dtype=numpy.float32), lengths))


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
        self.advantage_runs: list[AdvantageRun] = []
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
        first, *later = itertools.compress(range(len(sample.mask)), sample.mask)
        self.predictors.append(shift + first - 1 if first > parent_depth else last_shared)
        self.predictors += [shift + position - 1 for position in later]
        self.targets += itertools.compress(sample.ids, sample.mask)
        self.logprobs += itertools.compress(sample.logprobs, sample.mask)
        self.sample_indices += [path.sample] * (1 + len(later))
        self.advantage_runs += sample.advantage_runs

    def _append(self, ids: Sequence[int], end_depth: int) -> None:
        self.positions += range(self._depth, end_depth)
        self.ids += ids[self._depth : end_depth]


def _levels(shared: Sequence[Segment], device: torch.device) -> Iterator[Level]:
    by_depth: dict[int, list[Segment]] = {}
    open_ends: list[int] = []
    for segment in sorted(shared, key=lambda segment: segment.start):
        while open_ends and open_ends[-1] <= segment.start:
            open_ends.pop()
        by_depth.setdefault(len(open_ends), []).append(segment)
        open_ends.append(segment.subtree_end)
    for depth in sorted(by_depth):
        queries = [(segment.end, segment.subtree_end) for segment in by_depth[depth]]
        keys = [(segment.start, segment.end) for segment in by_depth[depth]]
        yield Level(
            query_flat=_indices(queries, device),
            query=_ragged(queries, device),
            key_flat=_indices(keys, device),
            key=_ragged(keys, device),
        )


def _indices(spans: Sequence[tuple[int, int]], device: torch.device) -> Tensor:
    ranges = [numpy.arange(start, end) for start, end in spans]
    return torch.from_numpy(numpy.concatenate(ranges)).to(device)


def _ragged(spans: Sequence[tuple[int, int]], device: torch.device) -> Ragged:
    lengths = [end - start for start, end in spans]
    ends = numpy.cumsum([0, *lengths], dtype=numpy.int32)
    return Ragged(ends=torch.from_numpy(ends).to(device), longest=max(lengths))


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
