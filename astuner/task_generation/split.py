"""Which documents and seeds the sides of a set are made from, decided before any draft.

What was decided once stays, so that what is added later moves nothing to the other side.
"""

import hashlib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from pydantic import BaseModel, ConfigDict

from astuner.task_generation.documents.document import DocumentChunk
from astuner.task_generation.draft import SIDES, Side
from astuner.types import Task


class DecidedSides(BaseModel):
    """As it stands in split.json."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    documents: dict[str, Side] = {}
    """By name."""
    chunks: dict[str, Side] = {}
    """By name of the document and digest; of a document that stood alone."""
    seeds: dict[str, Side] = {}
    """By digest of the question."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitMaterial:
    """What each side is made from; nothing is on both."""

    chunks: Mapping[Side, Sequence[DocumentChunk]]
    """Each text once, whatever number of documents repeat it."""
    seeds: Mapping[Side, Sequence[Task]]
    decided: DecidedSides = field(repr=False)
    """With all that was decided before."""


def split_material(
    chunks: Sequence[DocumentChunk],
    seeds: Sequence[Task],
    *,
    decided: DecidedSides,
    validation_fraction: float,
    test_fraction: float = 0.0,
    seed: int,
) -> SplitMaterial:
    """Put documents and seeds on sides; a document that stands alone is split by its chunks.

    Without fractions all is for training, and nothing is decided.
    """
    chunks = _first_of_each_text(chunks, known=decided.documents)
    fractions: dict[Side, float] = {"validation": validation_fraction, "test": test_fraction}
    if not any(fractions.values()):
        return SplitMaterial(
            chunks={"train": chunks, "validation": (), "test": ()},
            seeds={"train": seeds, "validation": (), "test": ()},
            decided=decided,
        )
    documents = {chunk.document for chunk in chunks}
    split_inside = {_document_of(key) for key in decided.chunks}
    if len(documents) == 1 and not documents & decided.documents.keys():
        split_inside |= documents
    by_document = _decide(
        documents - split_inside, decided.documents, fractions=fractions, seed=seed
    )
    by_chunk = _decide(
        {_chunk_key(chunk) for chunk in chunks if chunk.document in split_inside},
        decided.chunks,
        fractions=fractions,
        seed=seed,
    )
    by_seed = _decide(
        {_seed_key(task) for task in seeds}, decided.seeds, fractions=fractions, seed=seed
    )
    side_of_chunk: list[Side] = [
        by_chunk[_chunk_key(chunk)]
        if chunk.document in split_inside
        else by_document[chunk.document]
        for chunk in chunks
    ]
    side_of_seed: list[Side] = [by_seed[_seed_key(task)] for task in seeds]
    return SplitMaterial(
        chunks=_on_sides(chunks, side_of_chunk),
        seeds=_on_sides(seeds, side_of_seed),
        decided=DecidedSides(documents=by_document, chunks=by_chunk, seeds=by_seed),
    )


def num_wanted(
    task_num: int,
    *,
    validation_fraction: float,
    test_fraction: float = 0.0,
    has_units: Collection[Side] = SIDES,
) -> Mapping[Side, int]:
    """Tasks for each side; `has_units` are those that have something to be made from.

    Validation gets one as soon as there are two, the test as soon as there is one more. Where more
    are wanted, no side gets fewer.
    """
    fractions: dict[Side, float] = {"validation": validation_fraction, "test": test_fraction}
    possible: dict[Side, float] = {
        side: share for side, share in fractions.items() if side in has_units
    }
    wanted = _shares(task_num, possible)
    return {"train": task_num - sum(wanted.values()), **wanted}


def _shares(number: int, fractions: Mapping[Side, float]) -> dict[Side, int]:
    """Of so many for each held-out side: at least one where any are wanted, and at least one is
    left for training. The test has its share of all, the validation of the rest, so that one more
    of all is one more of one side."""
    validation, test = fractions.get("validation", 0.0), fractions.get("test", 0.0)
    num_kept = 2 if validation > 0 else 1
    num_test = _share(number, test, most=number - num_kept)
    rest = number - num_test
    num_validation = _share(rest, validation / (1 - test), most=rest - 1)
    return {"validation": num_validation, "test": num_test}


def _share(number: int, fraction: float, *, most: int) -> int:
    wanted = max(1, int(number * fraction + 0.5)) if fraction > 0 else 0
    return max(0, min(wanted, most))


def _decide(
    units: Collection[str],
    decided: Mapping[str, Side],
    *,
    fractions: Mapping[Side, float],
    seed: int,
) -> dict[str, Side]:
    """A side for each unit, beside all that were decided before.

    New ones go to the held-out sides, in an order by digest, until these have their share. Where
    there are as many units as sides, none of these stays empty, even if one that was decided has to
    move; a side that nothing was decided for takes its share from training.
    """
    in_order = sorted(units, key=lambda unit: hashlib.sha256(f"{seed}/{unit}".encode()).digest())
    shares = _shares(len(units), fractions)
    sides: dict[str, Side] = {unit: decided[unit] for unit in in_order if unit in decided}
    sizes = Counter(sides.values())
    for unit in in_order:
        if unit not in sides:
            lacking: list[Side] = [side for side, share in shares.items() if sizes[side] < share]
            sides[unit] = lacking[0] if lacking else "train"
            sizes[sides[unit]] += 1
    if units and not sizes["train"]:
        sides[in_order[-1]] = "train"
    for side, share in shares.items():
        num_lacking = share if side not in decided.values() else min(share, 1)
        held_out = sum(found == side for found in sides.values())
        of_training = [unit for unit in in_order if sides[unit] == "train"]
        for unit in of_training[: max(0, min(num_lacking - held_out, len(of_training) - 1))]:
            sides[unit] = side
    return {**decided, **sides}


def _first_of_each_text(
    chunks: Sequence[DocumentChunk], *, known: Collection[str]
) -> list[DocumentChunk]:
    """Without repetitions, which could stand on both sides; `known` documents keep theirs."""
    first: dict[str, DocumentChunk] = {}
    for chunk in sorted(chunks, key=lambda chunk: chunk.document not in known):
        first.setdefault(chunk.digest, chunk)
    return [chunk for chunk in chunks if first[chunk.digest] is chunk]


def _on_sides(units: Sequence, sides: Sequence[Side]) -> Mapping[Side, Sequence]:
    pairs = list(zip(units, sides, strict=True))
    return {wanted: [unit for unit, side in pairs if side == wanted] for wanted in SIDES}


def _chunk_key(chunk: DocumentChunk) -> str:
    return f"{chunk.document}#{chunk.digest[:16]}"


def _document_of(chunk_key: str) -> str:
    return chunk_key.rpartition("#")[0]


def _seed_key(task: Task) -> str:
    return hashlib.sha256(task.main_query.encode()).hexdigest()[:16]
