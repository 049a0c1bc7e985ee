"""Tasks of an evaluation that stand, word by word or nearly, among tasks that trained or chose.

A figure on such tasks tells in part what a model remembers. Arithmetic only: who reads the tasks,
and what is done about them, is not known here. Paraphrases and translations are not found.
"""

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy

from astuner.task_generation.gates.duplicates.known_text import (
    KnownText,
    are_about_different_things,
)
from astuner.task_generation.gates.duplicates.words import words_of
from astuner.types import Task

MAX_COMPARED = 20_000
"""Tasks of each side among which near ones are looked for: some seconds."""
_MAX_OVERLAP = 0.7
"""Of the pairs of neighbouring words; one word of eleven that differs leaves 0.71."""
_COMMON = 0.25
_LEAST_FOR_COMMON = 20
"""Pairs of words that more than a quarter of so many tasks have are their template."""
_NUM_NAMED = 5
_NO_ENVIRONMENT = Task.model_fields["env_type"].default


@dataclass(frozen=True, slots=True, kw_only=True)
class TwinTasks:
    """A task of the evaluation, and the one of the other side that it repeats most."""

    task_id: str
    other_id: str
    overlap: float
    """Of their pairs of words, by intersection over union; 1: they are the same words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contamination:
    """What two splits share."""

    split: str
    """Of the evaluation, such as "test"."""
    other: str
    """Such as "training"."""
    num_tasks: int
    """Of the evaluation."""
    same: Sequence[TwinTasks]
    near: Sequence[TwinTasks]
    num_not_compared: int
    """Tasks of either side that near ones were not looked for among, since there are too many."""

    def __bool__(self) -> bool:
        """Whether there is anything to say."""
        return bool(self.same or self.near)

    def line(self) -> str:
        """For a person: how many, and the first few by their ids."""
        num_found = len(self.same) + len(self.near)
        kinds = [
            f"{len(twins)} {how} ({_named(twins)})"
            for how, twins in (("word by word", self.same), ("nearly", self.near))
            if twins
        ]
        left_out = (
            f"; near ones were not looked for among {self.num_not_compared:,} further tasks"
            if self.num_not_compared
            else ""
        )
        return (
            f"{num_found:,} of {self.num_tasks:,} {self.split} tasks stand in {self.other} too: "
            f"{', '.join(kinds)}{left_out}"
        )


def find_contaminations(
    tasks: Sequence[Task], others: Mapping[str, Sequence[Task]], *, split: str
) -> list[Contamination]:
    """What a split shares with each of the others, by their names; without those that share
    nothing."""
    found = (
        find_contamination(tasks, of_other, split=split, other=other)
        for other, of_other in others.items()
    )
    return [contamination for contamination in found if contamination]


def find_contamination(
    tasks: Sequence[Task], others: Sequence[Task], *, split: str, other: str
) -> Contamination:
    """Which of the `tasks` are, in the same or nearly the same words, among `others`.

    Tasks are told apart by more than their words where these say nothing: without a question, by
    what their environment is given; where one side has a question several times, by their metadata.
    """
    asking, asked = (
        [_ComparedTask.of(task) for task in tasks],
        [_ComparedTask.of(task) for task in others],
    )
    without_name = _repeated(asking) | _repeated(asked)
    identities = {one.identity(without_name): one.task for one in reversed(asked)}
    twins = [(one, identities.get(one.identity(without_name))) for one in asking]
    rest = [one for one, twin in twins if twin is None and one.is_named(without_name)]
    named = [one for one in asked if one.is_named(without_name)]
    return Contamination(
        split=split,
        other=other,
        num_tasks=len(tasks),
        same=[
            TwinTasks(task_id=one.task.task_id, other_id=twin.task_id, overlap=1.0)
            for one, twin in twins
            if twin is not None
        ],
        near=_near(rest[:MAX_COMPARED], named[:MAX_COMPARED]),
        num_not_compared=len(rest[MAX_COMPARED:]) + len(named[MAX_COMPARED:]),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _ComparedTask:
    """A task as it is compared."""

    task: Task
    question: str
    words: tuple[str, ...]

    @classmethod
    def of(cls, task: Task) -> Self:
        """Without a question, what the user says last before it."""
        question = task.main_query
        if not question.strip():
            said = [turn.get("content") for turn in task.init_messages if turn["role"] == "user"]
            question = said[-1] if said and isinstance(said[-1], str) else ""
        return cls(task=task, question=question, words=tuple(words_of(question)))

    def is_named(self, without_name: Collection[tuple[str, ...]]) -> bool:
        """Whether its words say which task it is; of an environment, they are half of it."""
        is_whole = self.task.env_type == _NO_ENVIRONMENT
        return is_whole and bool(self.words) and self.words not in without_name

    def identity(self, without_name: Collection[tuple[str, ...]]) -> tuple[object, ...]:
        """Equal for tasks that are the same."""
        metadata = self.task.metadata
        if not self.words:
            return (self.task.env_type, _plain(metadata) if metadata else self.task.task_id)
        if self.words in without_name:
            return (self.words, _plain(metadata))
        is_apart = self.task.env_type != _NO_ENVIRONMENT and "seed" in metadata
        return (self.words, _plain(metadata["seed"])) if is_apart else (self.words,)

    def known(self) -> KnownText:
        answer = self.task.metadata.get("answer")
        return KnownText(
            question=self.question, answer=answer if isinstance(answer, str) else "", place=""
        )


def _repeated(asked: Sequence[_ComparedTask]) -> set[tuple[str, ...]]:
    """Questions that stand more than once with other metadata: they do not say what is asked."""
    times = Counter(one.words for one in asked if one.words)
    first: dict[tuple[str, ...], str] = {}
    repeated = set()
    for one in asked:
        if times[one.words] > 1:
            plain = _plain(one.task.metadata)
            if first.setdefault(one.words, plain) != plain:
                repeated.add(one.words)
    return repeated


def _near(asking: Sequence[_ComparedTask], asked: Sequence[_ComparedTask]) -> list[TwinTasks]:
    if not asking or not asked:
        return []
    sets = _telling_pairs([one.words for one in (*asking, *asked)])
    listed = _ListedPairs(sets[len(asking) :])
    twins = (
        _nearest(one, listed.overlaps(pairs), asked)
        for one, pairs in zip(asking, sets[: len(asking)], strict=True)
        if len(pairs)
    )
    return [twin for twin in twins if twin is not None]


def _nearest(
    one: _ComparedTask, overlaps: numpy.ndarray, asked: Sequence[_ComparedTask]
) -> TwinTasks | None:
    """The most alike of those that ask for the same thing."""
    near = numpy.flatnonzero(overlaps > _MAX_OVERLAP)
    for number in sorted(near.tolist(), key=lambda number: -overlaps[number]):
        if not are_about_different_things(one.known(), asked[number].known()):
            return TwinTasks(
                task_id=one.task.task_id,
                other_id=asked[number].task.task_id,
                overlap=float(overlaps[number]),
            )
    return None


class _ListedPairs:
    """For each pair the sets that have it: for one set compared with all of many at once, where
    `NearIndex` is for sets that come one by one."""

    def __init__(self, sets: Sequence[numpy.ndarray]) -> None:
        self._sizes = numpy.array([len(one) for one in sets])
        pairs = numpy.concatenate(sets)
        order = numpy.argsort(pairs, kind="stable")
        self._owners = numpy.repeat(numpy.arange(len(sets)), self._sizes)[order]
        self._ordered = pairs[order]

    def overlaps(self, one: numpy.ndarray) -> numpy.ndarray:
        """Intersection over union with each of the sets."""
        begins = numpy.searchsorted(self._ordered, one, side="left")
        ends = numpy.searchsorted(self._ordered, one, side="right")
        having = [self._owners[a:b] for a, b in zip(begins, ends, strict=True)]
        shared = numpy.bincount(numpy.concatenate(having), minlength=len(self._sizes))
        return shared / (len(one) + self._sizes - shared)


def _telling_pairs(texts: Sequence[Sequence[str]]) -> list[numpy.ndarray]:
    """Of each text its pairs of neighbouring words, each once, as numbers that all texts share;
    without those that so many of them have that they tell nothing."""
    number: dict[str, int] = {}
    edged = [[0, *(number.setdefault(word, len(number) + 1) for word in text), 0] for text in texts]
    words = numpy.concatenate([numpy.array(one, dtype=numpy.int64) for one in edged])
    ends = numpy.cumsum([len(one) for one in edged])
    is_inside = numpy.ones(len(words) - 1, dtype=bool)
    is_inside[ends[:-1] - 1] = False
    pairs = (words[:-1] * (len(number) + 1) + words[1:])[is_inside]
    owners = numpy.repeat(numpy.arange(len(edged)), [len(one) - 1 for one in edged])
    values, codes = numpy.unique(pairs, return_inverse=True)
    owned = numpy.unique(owners * len(values) + codes)
    owners, codes = numpy.divmod(owned, len(values))
    if len(texts) >= _LEAST_FOR_COMMON:
        is_telling = numpy.bincount(codes) <= _COMMON * len(texts)
        owners, codes = owners[is_telling[codes]], codes[is_telling[codes]]
    return numpy.split(codes, numpy.searchsorted(owners, numpy.arange(1, len(texts))))


def _plain(value: object) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _named(twins: Sequence[TwinTasks]) -> str:
    shown = [f"{one.task_id} = {one.other_id}" for one in twins[:_NUM_NAMED]]
    return ", ".join(shown) + (", …" if len(twins) > _NUM_NAMED else "")
