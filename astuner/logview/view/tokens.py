"""Every token of an episode: what it was sampled with, what the trainer made of it, and why not.

A token is trained where the record's mask says so. The trainer's files tell more, where a run kept
them: an advantage, recomputed log-probabilities, and which sequences became no sample.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from astuner.trajectory.episode import Episode
from astuner.trajectory.merge import Sequence, Span
from astuner.trajectory.recorder import Agent, BreakKind

if TYPE_CHECKING:
    from astuner.logview.reading.training import TrainedSample
    from astuner.logview.reading.vocabulary import TokenPiece, Vocabulary

Samples = Mapping[int, "TrainedSample"]
"""What an episode was trained on, by the index of the sequence."""


class Fate(StrEnum):
    """What became of a token."""

    TRAINED = "trained"
    GIVEN = "given"
    """The template, a user or a tool wrote it."""
    EARLIER = "earlier"
    """Sampled; an earlier sequence, which holds it too, trains it."""
    OTHERS = "others"
    """Sampled for an agent that is not trained."""
    UNTAKEN = "untaken"
    """Sampled, and nobody got the answer."""
    LEFT_OUT = "left_out"
    """Sampled to be trained, but its sequence became no sample of the step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """The call with which a sequence begins or leaves an earlier one, and why that one ended."""

    call: int
    kind: BreakKind | None
    """None for an agent's first call."""
    reason: str | None
    message: int | None
    """The first message that differs, counted from 0; None where none does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownSpan:
    """Consecutive tokens of one origin and one fate."""

    start: int
    """Number of its first token among those of all sequences of the episode."""
    span: Span
    fate: Fate
    why: str
    """Its fate, in words."""
    weight_version: int | None
    """Which weights sampled it; None for given tokens."""
    recomputed: tuple[float | None, ...] | None
    """The trainer's log-probabilities before the update, one per id; None where not known."""
    advantage: float | None = None
    """Of each token; None where it is not trained, or that is not known."""

    @property
    def end(self) -> int:
        return self.start + len(self.span.ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownSequence:
    """A sequence of the record with what the trainer's side tells of it."""

    index: int
    agent: Agent
    opening: Opening
    spans: tuple[ShownSpan, ...]
    num_trained: int
    """As the record's mask has it; not so many were trained where it became no sample."""
    sample: "TrainedSample | None"
    problem: str | None
    """Why the trainer's numbers are not shown though a file has some."""

    @property
    def start(self) -> int:
        return self.spans[0].start if self.spans else 0

    @property
    def end(self) -> int:
        return self.spans[-1].end if self.spans else 0

    @property
    def advantage(self) -> float | None:
        """Of its trained tokens; the mean where calls have their own."""
        return self.sample.advantage if self.sample else None

    @property
    def left_out(self) -> str | None:
        """Why it became no sample, though it has tokens to be trained; None where it is one."""
        return next((shown.why for shown in self.spans if shown.fate is Fate.LEFT_OUT), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownToken:
    """All that is known of one token."""

    number: int
    """Among the tokens of all sequences of the episode, from 0."""
    sequence: int
    call: int
    id: int
    piece: "TokenPiece | None"
    """None without a vocabulary."""
    fate: Fate
    why: str
    logprob: float | None
    """Natural log at sampling temperature; None for given tokens."""
    recomputed: float | None
    advantage: float | None
    """None where it is not trained, or where that is not known."""
    weight_version: int | None

    @property
    def gap(self) -> float | None:
        """Recomputed less sampled, in nats."""
        if self.logprob is None or self.recomputed is None:
            return None
        return self.recomputed - self.logprob

    @property
    def ratio(self) -> float | None:
        """What the loss multiplies the advantage with before the first update."""
        return None if self.gap is None else math.exp(min(self.gap, 700.0))


def show_sequences(
    episode: Episode, *, samples: Samples | None = None, is_flat: bool = False
) -> tuple[ShownSequence, ...]:
    """The sequences of an episode in the order of its record.

    `samples` is None where the run kept none of this step. `is_flat` says that its group had one
    reward only, which explains why nothing of it is trained.
    """
    shown: list[ShownSequence] = []
    met: dict[int, int] = {}
    start = 0
    for index, sequence in enumerate(episode.sequences):
        sample = (samples or {}).get(index)
        left_out = _why_left_out(episode, samples, index, is_flat=is_flat)
        recomputed, problem = _recomputed(sequence, sample)
        advantages = _advantages(sequence, sample)
        spans = []
        for span in sequence.spans:
            fate, why = _fate(episode, span, met=met, left_out=left_out)
            own = [next(recomputed) for _ in span.ids] if recomputed and span.is_trained else None
            spans.append(
                ShownSpan(
                    start=start,
                    span=span,
                    fate=fate,
                    why=why,
                    weight_version=_version(episode, span),
                    recomputed=None if own is None else tuple(own),
                    advantage=next(advantages) if span.is_trained else None,
                )
            )
            start += len(span.ids)
        shown.append(
            ShownSequence(
                index=index,
                agent=sequence.agent,
                opening=_opening(episode, sequence, met),
                spans=tuple(spans),
                num_trained=sequence.num_trained,
                sample=sample,
                problem=problem,
            )
        )
        for call in sequence.calls:
            met.setdefault(call, index)
    return tuple(shown)


def tokens_of(
    sequence: ShownSequence,
    vocabulary: "Vocabulary | None" = None,
    *,
    first: int = 0,
    last: int | None = None,
) -> Iterator[ShownToken]:
    """Its tokens with numbers from `first` up to, not including, `last`."""
    for shown in sequence.spans:
        begin = max(0, first - shown.start)
        end = len(shown.span.ids) if last is None else min(len(shown.span.ids), last - shown.start)
        if begin >= end:
            continue
        ids = shown.span.ids[begin:end]
        pieces = vocabulary.pieces(ids) if vocabulary else [None] * len(ids)
        for place, (id_, piece) in enumerate(zip(ids, pieces, strict=True), begin):
            yield ShownToken(
                number=shown.start + place,
                sequence=sequence.index,
                call=shown.span.call,
                id=id_,
                piece=piece,
                fate=shown.fate,
                why=shown.why,
                logprob=shown.span.logprobs[place] if shown.span.logprobs is not None else None,
                recomputed=shown.recomputed[place] if shown.recomputed is not None else None,
                advantage=shown.advantage if shown.fate is Fate.TRAINED else None,
                weight_version=shown.weight_version,
            )


def _advantages(sequence: Sequence, sample: "TrainedSample | None") -> Iterator[float | None]:
    """Of each trained span, in order."""
    lengths = [len(span.ids) for span in sequence.spans if span.is_trained]
    if sample is None or not sample.call_advantages:
        return iter([sample.advantage if sample else None] * len(lengths))
    if [num_tokens for num_tokens, _ in sample.call_advantages] != lengths:
        return iter([None] * len(lengths))
    return iter([value for _, value in sample.call_advantages])


def _recomputed(
    sequence: Sequence, sample: "TrainedSample | None"
) -> tuple[Iterator[float | None] | None, str | None]:
    """The trainer's values in the order of the trained tokens, or why they are none of these."""
    if sample is None or sample.logprobs is None:
        return None, None
    found, wanted = len(sample.logprobs), sequence.num_trained
    if found == wanted:
        return iter(sample.logprobs), None
    return None, (
        f"The training file has {found} log-probabilities for the {wanted} trained tokens of this "
        "sequence, so none of them are shown."
    )


def _fate(
    episode: Episode, span: Span, *, met: Mapping[int, int], left_out: str | None
) -> tuple[Fate, str]:
    call = episode.calls[span.call]
    if span.logprobs is None:
        return Fate.GIVEN, "not trained: given to the model"
    if span.is_trained:
        return (Fate.LEFT_OUT, left_out) if left_out else (Fate.TRAINED, "trained")
    if not call.is_taken:
        return Fate.UNTAKEN, "not trained: nobody got the whole answer"
    if not call.is_trained:
        return Fate.OTHERS, f"not trained: the agent {call.agent_name} is not tuned"
    earlier = met.get(span.call)
    place = "an earlier sequence" if earlier is None else f"sequence {earlier + 1}"
    return Fate.EARLIER, f"not trained here: trained in {place}, which holds it too"


def _why_left_out(
    episode: Episode, samples: Samples | None, index: int, *, is_flat: bool
) -> str | None:
    """Why a sequence with trained tokens is no sample; None where it is one, or may be."""
    if episode.is_validation:
        return "not trained: the episode is of a validation"
    if samples is not None and index in samples:
        return None
    if episode.verdict is None:
        return "not trained: the episode failed, so it has no reward"
    if is_flat and not episode.verdict.call_rewards:
        return "not trained: all episodes of the group got the same reward"
    if samples is None:
        return None
    if not samples:
        return "not trained: no sample of the step is of this episode"
    agent = episode.sequences[index].agent
    if any(one.agent == agent for i, one in enumerate(episode.sequences) if i in samples):
        return "not trained: another sequence of the episode was taken instead of this one"
    return (
        f"not trained: no sample of the step is of the agent {agent[0]} in this episode, as where "
        "all attempts got the same reward in its role"
    )


def _opening(episode: Episode, sequence: Sequence, met: Mapping[int, int]) -> Opening:
    """At the first call that no earlier sequence has."""
    index = next((i for i in sequence.calls if i not in met), sequence.calls[0])
    call = episode.calls[index]
    return Opening(
        call=index, kind=call.break_kind, reason=call.break_reason, message=call.break_message
    )


def _version(episode: Episode, span: Span) -> int | None:
    return None if span.logprobs is None else episode.calls[span.call].completion.weight_version
