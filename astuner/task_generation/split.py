"""Which documents and seeds training and validation are made from, decided before any draft.

What was decided once stays, so that what is added later moves nothing to the other side.
"""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from pydantic import BaseModel, ConfigDict

from astuner.task_generation.documents.document import DocumentChunk
from astuner.task_generation.draft import Side
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
    seed: int,
) -> SplitMaterial:
    """Put documents and seeds on sides; a document that stands alone is split by its chunks.

    Without a validation fraction all is for training, and nothing is decided.
    """
    chunks = _first_of_each_text(chunks, known=decided.documents)
    if validation_fraction == 0:
        return SplitMaterial(
            chunks={"train": chunks, "validation": ()},
            seeds={"train": seeds, "validation": ()},
            decided=decided,
        )
    documents = {chunk.document for chunk in chunks}
    split_inside = {_document_of(key) for key in decided.chunks}
    if len(documents) == 1 and not documents & decided.documents.keys():
        split_inside |= documents
    by_document = _decide(
        documents - split_inside, decided.documents, fraction=validation_fraction, seed=seed
    )
    by_chunk = _decide(
        {_chunk_key(chunk) for chunk in chunks if chunk.document in split_inside},
        decided.chunks,
        fraction=validation_fraction,
        seed=seed,
    )
    by_seed = _decide(
        {_seed_key(task) for task in seeds}, decided.seeds, fraction=validation_fraction, seed=seed
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


def num_wanted(task_num: int, *, validation_fraction: float, has_both: bool) -> Mapping[Side, int]:
    """Tasks for each side; validation gets one as soon as there are two. Where more are wanted, no
    side gets fewer."""
    num_validation = 0
    if has_both and validation_fraction > 0 and task_num > 1:
        num_validation = max(1, int(task_num * validation_fraction + 0.5))
        num_validation = min(num_validation, task_num - 1)
    return {"train": task_num - num_validation, "validation": num_validation}


def _decide(
    units: Collection[str], decided: Mapping[str, Side], *, fraction: float, seed: int
) -> dict[str, Side]:
    """A side for each unit, beside all that were decided before.

    New ones go to validation, in an order by digest, until it has its share. Where two units are
    there, none of the sides stays empty, even if one that was decided has to move.
    """
    in_order = sorted(units, key=lambda unit: hashlib.sha256(f"{seed}/{unit}".encode()).digest())
    share = min(max(1, int(len(units) * fraction + 0.5)), len(units) - 1)
    sides: dict[str, Side] = {unit: decided[unit] for unit in in_order if unit in decided}
    num_validation = sum(side == "validation" for side in sides.values())
    for unit in in_order:
        if unit not in sides:
            sides[unit] = "validation" if num_validation < share else "train"
            num_validation += sides[unit] == "validation"
    if units and num_validation == len(units):
        sides[in_order[-1]] = "train"
    if len(units) > 1 and num_validation == 0:
        sides[in_order[0]] = "validation"
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
    return {
        wanted: [unit for unit, side in pairs if side == wanted]
        for wanted in ("train", "validation")
    }


def _chunk_key(chunk: DocumentChunk) -> str:
    return f"{chunk.document}#{chunk.digest[:16]}"


def _document_of(chunk_key: str) -> str:
    return chunk_key.rpartition("#")[0]


def _seed_key(task: Task) -> str:
    return hashlib.sha256(task.main_query.encode()).hexdigest()[:16]
