"""From which distribution a served model is sampled: what a client asks for, else the model's own.

Unlike in training, a client may choose. Owns the ranges, and what counts as the model's own.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from astuner.gateway.refusals import all_of, bad_request
from astuner.gateway.sampling import Distribution
from astuner.gateway.wires.wire_format import Ask
from astuner.serving.refusal import Refusal

MAX_TEMPERATURE = 2.0
_GREEDY_BELOW = 1e-3
"""Such a temperature leaves the most probable token alone; its inverse times a logit may be beyond
what a number holds."""
_LEAST_TOP_P = 1e-6
"""In place of 0, which some clients send: the most probable token alone."""
_NOT_SAMPLED_SO: Mapping[str, float] = {
    "repetition_penalty": 1.0,
    "min_p": 0.0,
    "typical_p": 1.0,
    "no_repeat_ngram_size": 0,
}
"""Settings of a generation_config that the engine lacks, with the values that change nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnDistribution:
    """What is sampled from where a client says nothing."""

    distribution: Distribution
    origin: str
    """Where it comes from, in words."""
    unused: tuple[str, ...] = ()
    """What the model's own settings ask for besides, and does not happen."""


def own_distribution(
    generation_config: Mapping[str, Any], trained: Mapping[str, Any]
) -> OwnDistribution:
    """By the model's generation_config; where that names none, the one that it was trained with.

    `trained` is `rollout` of its run, empty where none is known. Without either, temperature 1.
    `do_sample` is not read: many models that are meant to be sampled leave it false.
    """
    unused = tuple(
        f"{name}={generation_config[name]:g}"
        for name, nothing in _NOT_SAMPLED_SO.items()
        if generation_config.get(name) not in (None, nothing)
    )
    for found, origin in (
        (generation_config, "its generation_config.json"),
        (trained, "as it was trained"),
    ):
        distribution = _distribution(found)
        if distribution is not None:
            return OwnDistribution(distribution=distribution, origin=origin, unused=unused)
    plain = Distribution(temperature=1.0, top_p=1.0, top_k=-1)
    return OwnDistribution(distribution=plain, origin="the model names none", unused=unused)


def _distribution(found: Mapping[str, Any]) -> Distribution | None:
    named = {key: found[key] for key in ("temperature", "top_p", "top_k") if _is_set(found, key)}
    if not named:
        return None
    return Distribution(
        temperature=_as_sampled(float(named.get("temperature", 1.0))),
        top_p=float(named.get("top_p", 1.0)),
        top_k=int(named.get("top_k", -1)) or -1,
    )


def _is_set(found: Mapping[str, Any], key: str) -> bool:
    return isinstance(found.get(key), int | float)


def asked_distribution(ask: Ask, own: Distribution) -> Distribution:
    """What the client asks for, with the model's own in the place of what it does not say.

    Raises Refusal that names all that is out of range.
    """
    if problems := list(_out_of_range(ask)):
        raise all_of(problems)
    asked = Distribution(
        temperature=own.temperature if ask.temperature is None else ask.temperature,
        top_p=own.top_p if ask.top_p is None else max(ask.top_p, _LEAST_TOP_P),
        top_k=own.top_k if ask.top_k is None else ask.top_k or -1,
    )
    return Distribution(
        temperature=_as_sampled(asked.temperature), top_p=asked.top_p, top_k=asked.top_k
    )


def _as_sampled(temperature: float) -> float:
    return 0.0 if temperature < _GREEDY_BELOW else temperature


def _out_of_range(ask: Ask) -> Iterator[Refusal]:
    ranges = (("temperature", ask.temperature, MAX_TEMPERATURE), ("top_p", ask.top_p, 1.0))
    for name, value, most in ranges:
        if value is not None and not 0 <= value <= most:
            yield bad_request(f"{name} is {value:g}; expected 0 to {most:g}", param=name)
