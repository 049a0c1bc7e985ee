"""How far a quantized file is from what was trained, and how far it may be.

A quantized model says something else now and then, by design. So all places of the trained replies
count, behind the first other token too: llama.cpp is led along the trained reply, and says in each
place what it would have. Arithmetic only.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from astuner.exporting.format import ExportAgreement, ExportProbe, ExportRefused, ProbeReading

BOUNDS: Mapping[str, float] = {"q8_0": 0.15, "q6_k": 0.3, "q5_k_m": 0.6, "q4_k_m": 0.8}
"""Nats a token, in the mean: what is further away is broken, and not rounded. SmolLM2 with 135
million weights, which suffers more than larger models do, is 0.04, 0.06, 0.20 and 0.20 away."""


def along_the_reply(
    agreement: ExportAgreement, probes: Sequence[ExportProbe], readings: Sequence[ProbeReading]
) -> ExportAgreement:
    """The same with all places of all replies in its counts and gaps."""
    pairs = [
        (ours, theirs)
        for probe, reading in zip(probes, readings, strict=True)
        for ours, theirs in zip(probe.logprobs, reading.logprobs, strict=True)
    ]
    gaps = [abs(ours - theirs) for ours, theirs in pairs]
    return replace(
        agreement,
        num_equal_tokens=sum(map(_num_equal, probes, readings)),
        mean_gap=sum(gaps) / max(1, len(gaps)),
        max_gap=max(gaps, default=0.0),
        perplexity_ratio=math.exp(sum(ours - theirs for ours, theirs in pairs) / len(pairs))
        if pairs
        else None,
    )


def check_distance(agreement: ExportAgreement, quantization: str) -> None:
    """Raise ExportRefused for a file that is further away than its type explains."""
    bound = BOUNDS[quantization]
    if agreement.mean_gap <= bound:  # not a number is above it, too
        return
    raise ExportRefused(
        f"the gguf export is refused: as {quantization} it is {agreement.mean_gap:.3g} nats a "
        f"token from what was trained, and {bound:g} is as much as this type takes from a model "
        f"that survives it; {agreement.num_equal_tokens} of {agreement.num_tokens} greedy tokens "
        f"are equal. {agreement.first_difference or ''}. Nothing of it is kept. Export with "
        "more bits, such as --quantize f16"
    )


def _num_equal(probe: ExportProbe, reading: ProbeReading) -> int:
    pairs = zip(probe.greedy_ids, reading.greedy_ids, strict=False)
    return sum(ours == theirs for ours, theirs in pairs)
