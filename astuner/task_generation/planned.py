"""From what a set is made of to its plan; the same for making it and for a preview."""

from typing import NamedTuple

from astuner.task_generation.plan import DraftPlan
from astuner.task_generation.request import GenerationOptions, GenerationParts
from astuner.task_generation.split import DecidedSides, SplitMaterial, split_material


class PlannedSet(NamedTuple):
    material: SplitMaterial
    plan: DraftPlan


def planned(
    parts: GenerationParts, options: GenerationOptions, *, decided: DecidedSides
) -> PlannedSet:
    """`decided` are the sides of what was divided before, which stay."""
    material = split_material(
        parts.chunks,
        parts.seeds,
        decided=decided,
        validation_fraction=options.validation_fraction,
        test_fraction=options.test_fraction,
        seed=options.seed,
    )
    plan = DraftPlan(
        chunks=material.chunks,
        seeds=material.seeds,
        styles=parts.styles,
        num_examples=options.num_examples,
        language=options.language,
        validation_fraction=options.validation_fraction,
        test_fraction=options.test_fraction,
        seed=options.seed,
        is_repeatable=options.is_repeatable,
    )
    return PlannedSet(material, plan)
