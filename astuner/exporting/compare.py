"""How far apart two computations of one model are, and how far rounding alone may bring them.

A difference between two tokens that the tuned model finds about equally likely is a tie: which of
them is the greedy one is decided by rounding, also between two passes of the tuned model itself. It
is counted, and is no difference. Greedy tokens behind the first other one of a probe are not
compared, since the texts are others there. Arithmetic only.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from astuner.exporting.format import (
    ExportAgreement,
    ExportProbe,
    ExportRefused,
    ProbeReading,
    RunnerUp,
)

Decode = Callable[[Sequence[int]], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class TypeRounding:
    """What computing in a type may make of log-probabilities, in nats."""

    mean: float
    """Of all tokens, absolute."""
    largest: float
    """Of a single token."""
    tie: float
    """Two tokens that are no further apart than this may change places."""


ROUNDING: Mapping[str, TypeRounding] = {
    "float32": TypeRounding(mean=1e-3, largest=0.02, tie=2e-3),
    "float16": TypeRounding(mean=0.02, largest=0.3, tie=0.05),
    "bfloat16": TypeRounding(mean=0.15, largest=1.5, tie=0.3),
}
"""By the name of the type. A model of 135 million weights in float32, rounded to bfloat16, is 0.07
nats a token away in the mean and 0.6 at most; merging an adapter then, 0.02 and 0.2
(benchmarks/export_cost.py). The other two types have 3 and 16 more bits."""

SAME_COMPUTATION = ROUNDING["float32"]
"""The same weights by the same operations in one library agree so in any type."""


def coarser(one: str, other: str) -> TypeRounding:
    """Of two computations in these types, what both together may do."""
    return max(ROUNDING[one], ROUNDING[other], key=lambda rounding: rounding.mean)


def agreement_of(
    probes: Sequence[ExportProbe],
    readings: Sequence[ProbeReading],
    *,
    runtime: str,
    rounding: TypeRounding,
    decode: Decode,
    other: str = "the export",
) -> ExportAgreement:
    """Compare what a runtime made of each probe with what the tuned model did.

    `other` is what messages call its side. Raises ExportRefused where the prompts differ, since all
    else is of another text then.
    """
    pairs = list(zip(probes, readings, strict=True))
    for probe, reading in pairs:
        _check_prompt(probe, reading, runtime, decode)
    gaps = [gap for probe, reading in pairs for gap in _gaps(probe, reading)]
    parting = [(p, r, place) for p, r in pairs if (place := _first_other(p, r)) is not None]
    real = [found for found in parting if not _is_tie(*found, rounding)]
    return ExportAgreement(
        runtime=runtime,
        num_probes=len(probes),
        num_tokens=sum(len(probe.greedy_ids) for probe in probes),
        num_equal_tokens=sum(_num_equal(probe, reading) for probe, reading in pairs),
        num_ties=len(parting) - len(real),
        mean_gap=sum(gaps) / max(1, len(gaps)),
        max_gap=max(gaps, default=0.0),
        first_difference=_told(*real[0], decode, other) if real else None,
    )


def check_agreement(
    agreement: ExportAgreement,
    rounding: TypeRounding,
    *,
    what: str,
    finer: str = "--dtype float32",
) -> None:
    """Raise ExportRefused for more than rounding, with where the two part.

    `finer` is what has this format written without rounding.
    """
    found = agreement.first_difference
    # Not a number is no agreement either.
    if not agreement.mean_gap <= rounding.mean:
        found = found or "the greedy tokens are equal"
        found += (
            f"; log-probabilities are {agreement.mean_gap:.3g} nats a token apart in the mean, at "
            f"most {rounding.mean:g} is rounding"
        )
    elif not agreement.max_gap <= rounding.largest:
        found = found or "the greedy tokens are equal"
        found += (
            f"; the log-probabilities of one token are {agreement.max_gap:.3g} nats apart, at most "
            f"{rounding.largest:g} is rounding"
        )
    if found is not None:
        raise ExportRefused(
            f"{what} is refused: loaded in {agreement.runtime} it does not compute what was "
            f"trained: {found}. Nothing of it is kept. Export with {finer}, which rounds "
            "nothing, or in another format; where that is refused as well, the packages of this "
            "environment compute this model differently: install those of constraints.txt"
        )


def _check_prompt(probe: ExportProbe, reading: ProbeReading, runtime: str, decode: Decode) -> None:
    place = _place_of_difference(probe.prompt_ids, reading.prompt_ids)
    if place is not None:
        near = slice(max(0, place - 3), place + 3)
        raise ExportRefused(
            f"the export is refused: {runtime} makes other tokens of the messages than training "
            f"did: probe {probe.name!r}, token {place + 1} of the prompt: training has "
            f"{decode(probe.prompt_ids[near])!r} there, the export "
            f"{decode(reading.prompt_ids[near])!r}. The chat template or the tokenizer is written "
            "or read differently there; nothing of it is kept"
        )


def _gaps(probe: ExportProbe, reading: ProbeReading) -> Iterator[float]:
    """Absolute, of all that the runtime told of."""
    pairs = zip(probe.logprobs, reading.logprobs, strict=False)
    return (abs(ours - theirs) for ours, theirs in pairs)


def _num_equal(probe: ExportProbe, reading: ProbeReading) -> int:
    place = _first_other(probe, reading)
    return len(probe.greedy_ids) if place is None else place


def _first_other(probe: ExportProbe, reading: ProbeReading) -> int | None:
    """The place of the first greedy token that differs; a reply that is cut short differs too,
    and one that goes on where the tuned model ends it."""
    place = _place_of_difference(probe.greedy_ids, reading.greedy_ids)
    if place == len(probe.greedy_ids) and probe.end_id is None:
        return None  # the probe was cut there
    return place


def _place_of_difference(one: Sequence[int], other: Sequence[int]) -> int | None:
    shorter = min(len(one), len(other))
    for place in range(shorter):
        if one[place] != other[place]:
            return place
    return None if len(one) == len(other) else shorter


def _is_tie(probe: ExportProbe, reading: ProbeReading, place: int, rounding: TypeRounding) -> bool:
    """Whether the tuned model finds the two tokens about equally likely.

    Where one of the replies ends, which of several end tokens stands there is not known, so that
    any token near enough decides.
    """
    is_end = place >= len(reading.greedy_ids) or place >= len(probe.greedy_ids)
    return any(
        other.margin <= rounding.tie and (is_end or reading.greedy_ids[place] == other.id)
        for other in _runners_up(probe, place)
    )


def _runners_up(probe: ExportProbe, place: int) -> Sequence[RunnerUp]:
    return probe.runners_up[place] if place < len(probe.runners_up) else ()


def _told(probe: ExportProbe, reading: ProbeReading, place: int, decode: Decode, other: str) -> str:
    def shown(ids: Sequence[int]) -> str:
        return repr(decode([ids[place]])) if place < len(ids) else "the end of the reply"

    margin = "".join(
        f" ({second.margin:.3g} nats before the second)" for second in _runners_up(probe, place)[:1]
    )
    return (
        f"probe {probe.name!r}, token {place + 1} of the reply: the tuned model says "
        f"{shown(probe.greedy_ids)}{margin}, {other} {shown(reading.greedy_ids)}"
    )
