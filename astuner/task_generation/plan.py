"""Which draft is asked for at which turn, known before the first one is made.

A turn depends on its number, the seed and what a set is made from; never on answers or on time. So
a ledger need not hold it, and any number of workers follow the same plan.

What is asked about a chunk does not depend on the other documents: where some are added, the
questions about those that were there are found among the answers that were paid for.
"""

import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import count, zip_longest

from astuner.task_generation.documents.document import DocumentChunk
from astuner.task_generation.draft import (
    DIFFICULTIES,
    SIDES,
    Difficulty,
    DraftStyle,
    DraftTurn,
    Side,
)
from astuner.types import Task


class DraftPlan:
    """The turns by their numbers, of all sides in proportion.

    Every chunk of a side has its turn before any has a second, and every document before any has a
    second within a round; with seeds alone, the seeds do.
    """

    def __init__(
        self,
        *,
        chunks: Mapping[Side, Sequence[DocumentChunk]],
        seeds: Mapping[Side, Sequence[Task]],
        styles: Sequence[DraftStyle],
        num_examples: int,
        language: str | None,
        validation_fraction: float,
        test_fraction: float = 0.0,
        seed: int,
        is_repeatable: bool,
    ) -> None:
        """With `is_repeatable` the plan ends where each chunk met each style and difficulty."""
        self._chunks = {side: _spread(chunks[side], salt=f"{seed}/{side}") for side in SIDES}
        self._seeds = {
            side: sorted(seeds[side], key=lambda task: _drawn(f"{seed}/{side}", task.main_query))
            for side in SIDES
        }
        self._has_chunks = any(self._chunks.values())
        self._styles = styles
        self._language = language
        self._num_examples = num_examples if self._has_chunks else max(1, num_examples)
        self._test_fraction = test_fraction if self.num_units("test") else 0.0
        self._fraction = self._reachable(validation_fraction / (1 - test_fraction))
        """Of the turns that are not for the test."""
        self._max_rounds = len(styles) * len(DIFFICULTIES) if is_repeatable else math.inf

    def num_units(self, side: Side) -> int:
        """Chunks, or seeds where there are no documents."""
        return len(self._chunks[side] if self._has_chunks else self._seeds[side])

    def side_of(self, number: int) -> Side:
        """Of the turn of that number."""
        num_test = self._num_test(number)
        if self._num_test(number + 1) > num_test:
            return "test"
        rest = number - num_test
        is_validation = self._num_validation(rest + 1) > self._num_validation(rest)
        return "validation" if is_validation else "train"

    def is_over(self, side: Side, number: int) -> bool:
        """Whether the side has no turn of that number or a later one."""
        num_units = self.num_units(side)
        return num_units == 0 or self._index(side, number) >= num_units * self._max_rounds

    def turn(self, number: int) -> DraftTurn | None:
        """None where the plan is over for the side."""
        side = self.side_of(number)
        if self.is_over(side, number):
            return None
        round_number, place = divmod(self._index(side, number), self.num_units(side))
        chunk, first_kind = self._chunks[side][place] if self._has_chunks else (None, place)
        kind = first_kind + round_number
        style, difficulty = _kind(kind, self._styles)
        return DraftTurn(
            number=number,
            side=side,
            chunk=chunk,
            examples=self._examples(side, kind * self._num_examples if chunk else place),
            style=style,
            difficulty=difficulty,
            language=self._language,
            round=round_number,
        )

    def _reachable(self, fraction: float) -> float:
        """The fraction for validation, where it or training has nothing to make turns from."""
        if self.num_units("validation") == 0:
            return 0.0
        return 1.0 if self.num_units("train") == 0 else fraction

    def _num_test(self, number: int) -> int:
        """Turns for the test among so many first ones."""
        return math.floor(number * self._test_fraction + 0.5)

    def _num_validation(self, number: int) -> int:
        """Turns for validation among so many first ones that are not for the test."""
        return math.floor(number * self._fraction + 0.5)

    def _index(self, side: Side, number: int) -> int:
        """Turns of the side before that number."""
        num_test = self._num_test(number)
        if side == "test":
            return num_test
        rest = number - num_test
        num_validation = self._num_validation(rest)
        return num_validation if side == "validation" else rest - num_validation

    def _examples(self, side: Side, first: int) -> tuple[Task, ...]:
        seeds = self._seeds[side]
        return tuple(
            seeds[(first + offset) % len(seeds)]
            for offset in range(min(self._num_examples, len(seeds)))
        )


def identity_of(turn: DraftTurn) -> str:
    """Equal for turns that ask for the same."""
    content = [
        *(turn.number, turn.side, turn.style.name, turn.style.instructions, turn.difficulty),
        *(turn.language, turn.round),
        [turn.chunk.document, turn.chunk.number, turn.chunk.digest] if turn.chunk else None,
        [task.model_dump(mode="json") for task in turn.examples],
    ]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _kind(count: int, styles: Sequence[DraftStyle]) -> tuple[DraftStyle, Difficulty]:
    """Styles and difficulties in turns; as many turns as there are pairs give each pair once."""
    shift = count // len(styles) if len(styles) % len(DIFFICULTIES) == 0 else 0
    return styles[count % len(styles)], DIFFICULTIES[(count + shift) % len(DIFFICULTIES)]


def _spread(chunks: Sequence[DocumentChunk], *, salt: str) -> list[tuple[DocumentChunk, int]]:
    """One of each document in turn, each with the kind that it begins with: the chunks of a
    document begin with one after the other. What is added leaves the order of the rest."""
    by_document: dict[str, list[DocumentChunk]] = defaultdict(list)
    for chunk in chunks:
        by_document[chunk.document].append(chunk)
    documents = [
        list(zip(sorted(these, key=lambda chunk: _drawn(salt, chunk.digest)), count(drawn)))
        for drawn, these in sorted(
            ((_drawn(salt, name), these) for name, these in by_document.items()),
            key=lambda pair: pair[0],
        )
    ]
    return [pair for row in zip_longest(*documents) for pair in row if pair is not None]


def _drawn(salt: str, text: str) -> int:
    """A number as if by chance, always the same for a text."""
    return int.from_bytes(hashlib.sha256(f"{salt}/{text}".encode()).digest()[:8])
