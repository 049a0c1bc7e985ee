"""From conversations to what the trainer takes, and what became of each."""

from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field, replace
from typing import Literal

from astuner.inference.placement import JoiningPolicy
from astuner.inference.template import ChatTemplate
from astuner.trajectory.merge import Sequence as TokenSequence
from astuner.trajectory.samples import TrainSample
from astuner.warm_start.conversation import GivenConversation
from astuner.warm_start.replay import NotReplayed, replay

Overlong = Literal["drop", "cut"]
TEMPERATURE = 1.0
"""At which what is given counts as said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnedConversation:
    """One that can be trained on, in tokens."""

    name: str
    samples: tuple[TrainSample, ...]
    """Several where the template wrote earlier messages in another way later on."""

    @property
    def num_tokens(self) -> int:
        return sum(len(sample.ids) for sample in self.samples)

    @property
    def num_trained(self) -> int:
        return sum(sum(sample.mask) for sample in self.samples)


@dataclass(slots=True, kw_only=True)
class LeftOut:
    """What was not taken as it is."""

    refused: dict[str, str] = field(default_factory=dict)
    """By the conversation's name, why."""
    too_long: list[str] = field(default_factory=list)
    """Names of those that were dropped for their length."""
    num_cut: int = 0
    """Conversations that lost their end."""


async def learned_conversations(
    given: Iterable[GivenConversation],
    template: ChatTemplate,
    left_out: LeftOut,
    *,
    joining: JoiningPolicy | None,
    max_tokens: int,
    overlong: Overlong,
) -> AsyncIterator[LearnedConversation]:
    """Those that can be learned, in order; of the others `left_out` is told.

    `max_tokens` bounds each sequence of a conversation.
    """
    for one in given:
        try:
            sequences = await replay(one, template, joining=joining)
        except NotReplayed as error:
            left_out.refused[one.name] = str(error)
            continue
        samples = [_sample(one, i, s) for i, s in enumerate(sequences) if s.num_trained]
        fitting = _fitting(samples, max_tokens, overlong)
        if not fitting:
            left_out.too_long.append(one.name)
            continue
        left_out.num_cut += fitting != samples
        yield LearnedConversation(name=one.name, samples=tuple(fitting))


def _sample(given: GivenConversation, index: int, sequence: TokenSequence) -> TrainSample:
    return TrainSample(
        ids=sequence.ids,
        mask=sequence.mask,
        logprobs=sequence.logprobs,
        advantage=1.0,
        temperature=TEMPERATURE,
        weight_version=0,
        task_id=given.name,
        episode_id=given.name,
        sequence=index,
    )


def _fitting(samples: list[TrainSample], max_tokens: int, overlong: Overlong) -> list[TrainSample]:
    """All of them, or none where one is too long and nothing is to be cut."""
    if all(len(sample.ids) <= max_tokens for sample in samples):
        return samples
    if overlong == "drop":
        return []
    cut = (
        replace(
            sample,
            ids=sample.ids[:max_tokens],
            mask=sample.mask[:max_tokens],
            logprobs=sample.logprobs[:max_tokens],
        )
        for sample in samples
        if any(sample.mask[:max_tokens])
    )
    return list(cut)
