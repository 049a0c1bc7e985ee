"""Which steps make tasks of traces, in their order: what the user lists, and what no list goes
without.
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from astuner.config.sections.trace_filters import (
    FILTER_PARAMS,
    FilterParams,
    FilterType,
    SplitParams,
)

_KEYS = {"type", "enabled", "params"}
_USUAL: tuple[FilterType, ...] = ("cut", "reference", "deduplication")
"""Without a list. Turns that failed are kept: what an agent cannot do is what it is to learn."""
_NEED_TURNS = ("reference", "llm_evaluate", "deduplication", "balance")


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedStep:
    """One step, with what it is told."""

    type: FilterType
    params: FilterParams


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedSteps:
    """All that happens to traces."""

    is_masked: bool
    """Before any step and any file."""
    steps: Sequence[PlannedStep]
    split: SplitParams
    """Behind all steps."""


def planned_steps(filters: Sequence[Mapping[str, Any]]) -> PlannedSteps:
    """The steps of a list as users write it.

    Masking comes first wherever it stands, and the split last. A list that cuts nothing begins with
    a cut, and references are looked for behind the cut. Raises ValueError, with what to do, for
    unknown types and params, for steps that stand twice where once is meant, and for steps that
    need turns before the cut.
    """
    switched = [_switched(number, entry) for number, entry in enumerate(filters)]
    off: set[FilterType] = {step.type for step, is_on in switched if not is_on}
    steps = [step for step, is_on in switched if is_on]
    if not filters:
        steps = [_default(name) for name in _USUAL]
    _check_once(steps)
    middle = _with_turns([step for step in steps if step.type not in ("mask", "split")], off)
    return PlannedSteps(is_masked="mask" not in off, steps=middle, split=_split_of(steps, off))


def _switched(number: int, entry: Mapping[str, Any]) -> tuple[PlannedStep, bool]:
    place = f"filters[{number}]"
    unknown = sorted(entry.keys() - _KEYS)
    if unknown:
        raise ValueError(f"{place}: unknown key {unknown[0]!r}; write {{type, enabled, params}}")
    kind: Any = entry.get("type")
    is_on = entry.get("enabled", True)
    if kind not in FILTER_PARAMS:
        near = difflib.get_close_matches(str(kind), FILTER_PARAMS, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ValueError(f"{place}.type: {kind!r} is no step; {hint}{', '.join(FILTER_PARAMS)} are")
    if not isinstance(is_on, bool):
        raise ValueError(f"{place}.enabled: found {is_on!r}; write true or false")
    return PlannedStep(type=kind, params=_params_of(kind, entry.get("params"), place)), is_on


def _params_of(kind: FilterType, params: Any, place: str) -> FilterParams:
    known = FILTER_PARAMS[kind]
    try:
        return known.model_validate(params or {})
    except ValidationError as error:
        problem = error.errors(include_input=False)[0]
        key = ".".join(map(str, (f"{place}.params", *problem["loc"])))
        names = [field.alias or name for name, field in known.model_fields.items()]
        hint = f"; {kind} knows {', '.join(names)}" if problem["type"] == "extra_forbidden" else ""
        raise ValueError(f"{key}: {problem['msg'].lower()}{hint or '; correct it'}") from None


def _default(kind: FilterType) -> PlannedStep:
    return PlannedStep(type=kind, params=FILTER_PARAMS[kind]())


def _check_once(steps: Sequence[PlannedStep]) -> None:
    for kind in ("mask", "cut", "split"):
        if sum(step.type == kind for step in steps) > 1:
            raise ValueError(f"filters: {kind} stands there more than once; leave one of them")


def _with_turns(steps: list[PlannedStep], off: set[FilterType]) -> list[PlannedStep]:
    kinds = [step.type for step in steps]
    if "cut" not in kinds:
        steps, kinds = [_default("cut"), *steps], ["cut", *kinds]
    cut = kinds.index("cut")
    early = [kind for kind in kinds[:cut] if kind in _NEED_TURNS]
    if early:
        raise ValueError(f"filters: {early[0]} stands before cut, and needs turns; move it behind")
    if "reference" not in kinds and "reference" not in off:
        steps = [*steps[: cut + 1], _default("reference"), *steps[cut + 1 :]]
    return steps


def _split_of(steps: Sequence[PlannedStep], off: set[FilterType]) -> SplitParams:
    for step in steps:
        if isinstance(step.params, SplitParams):
            return step.params
    return SplitParams(validation_fraction=0.0) if "split" in off else SplitParams()
