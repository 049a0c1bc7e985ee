"""What each metric is called, in which unit it is, and how its axis is to be drawn."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

_BREAKS = "trajectory/breaks_"

Shape = Literal["rate", "amount", "free"]
"""How the axis of values runs: from 0 to 1, from 0 to the highest, from lowest to highest."""


@dataclass(frozen=True, slots=True)
class Meaning:
    """Of a metric, for people."""

    words: str
    unit: str
    """Empty where there is none."""
    shape: Shape


MEANINGS: Mapping[str, Meaning] = {
    "reward/mean": Meaning("reward in training", "", "free"),
    "reward/success_rate": Meaning("episodes solved in training", "share", "rate"),
    "rollout/episodes": Meaning("episodes of a step", "episodes", "amount"),
    "rollout/failed_episodes": Meaning("failed episodes", "episodes", "amount"),
    "rollout/madness_episodes": Meaning("episodes with gibberish", "episodes", "amount"),
    "rollout/context_overflows": Meaning("episodes that ran out of room", "episodes", "amount"),
    "rollout/calls": Meaning("calls of all agents", "calls", "amount"),
    "rollout/untrained_calls": Meaning("calls that are not trained", "calls", "amount"),
    "rollout/untaken_calls": Meaning("calls whose answer nobody got", "calls", "amount"),
    "rollout/refused_calls": Meaning("refused calls", "calls", "amount"),
    "rollout/empty_replies": Meaning("empty replies", "replies", "amount"),
    "rollout/tokens": Meaning("sampled tokens", "tokens", "amount"),
    "rollout/episode_tokens_mean": Meaning("tokens of an episode", "tokens", "amount"),
    "rollout/tokens_per_second": Meaning("sampled tokens a second", "tokens/s", "amount"),
    "rollout/seconds": Meaning("seconds of rolling out", "s", "amount"),
    "rollout/weight_version": Meaning("updates that the weights have had", "updates", "amount"),
    "rollout/weight_version_lag": Meaning("updates behind when sampled", "updates", "amount"),
    "rollout/refills": Meaning("batches rolled out further", "batches", "amount"),
    "rollout/loop_seconds": Meaning("seconds of agents' and judges' code", "s", "amount"),
    "rollout/unsettled_passes": Meaning("passes begun too early", "passes", "amount"),
    "rollout/flat_groups": Meaning("groups with equal rewards", "groups", "amount"),
    "rollout/small_groups": Meaning("groups with too few rewards", "groups", "amount"),
    "llm/calls": Meaning("requests to models that are not tuned", "calls", "amount"),
    "llm/input_tokens": Meaning("tokens sent to them", "tokens", "amount"),
    "llm/output_tokens": Meaning("tokens of their answers", "tokens", "amount"),
    "llm/cache_hits": Meaning("questions to them found in the cache", "questions", "amount"),
    "llm/errors": Meaning("questions to them without an answer", "questions", "amount"),
    "trajectory/sequences_per_episode": Meaning("sequences of an episode", "sequences", "amount"),
    "trajectory/breaks": Meaning("calls that start a new sequence", "calls", "amount"),
    "trajectory/drifted_calls": Meaning("calls joined by text", "calls", "amount"),
    "trajectory/drifted_tokens": Meaning("tokens encoded otherwise", "tokens", "amount"),
    "trajectory/dropped_sequences": Meaning("sequences left out", "sequences", "amount"),
    "train/loss": Meaning("loss", "", "free"),
    "train/grad_norm": Meaning("gradient norm", "", "amount"),
    "train/clip_fraction": Meaning("clipped tokens", "share", "amount"),
    "train/logprob_gap_mean": Meaning("sampler against trainer", "nats", "amount"),
    "train/logprob_gap_max": Meaning("sampler against trainer, at most", "nats", "amount"),
    "train/importance_weight_mean": Meaning("weight of off-policy tokens", "", "free"),
    "train/importance_bounded_fraction": Meaning("tokens of bounded weight", "share", "amount"),
    "train/entropy": Meaning("entropy", "nats", "amount"),
    "train/kl": Meaning("distance from the reference (KL)", "nats", "free"),
    "train/tokens": Meaning("trained tokens", "tokens", "amount"),
    "train/sample_tokens": Meaning("tokens of all samples", "tokens", "amount"),
    "train/packed_tokens": Meaning("tokens that the model read", "tokens", "amount"),
    "train/updates": Meaning("optimizer steps", "updates", "amount"),
    "train/lr": Meaning("learning rate", "", "amount"),
    "train/weights_norm": Meaning("norm of the weights", "", "free"),
    "train/weights_checksum": Meaning("checksum of the weights", "", "free"),
    "train/seconds": Meaning("seconds of training", "s", "amount"),
    "warm_start/loss": Meaning("loss of the warm start", "nats a token", "amount"),
    "warm_start/validation_loss": Meaning("the same, held out", "nats a token", "amount"),
    "warm_start/epoch": Meaning("passes over the conversations", "", "amount"),
    "warm_start/conversations": Meaning("conversations of an update", "", "amount"),
    "warm_start/tokens": Meaning("tokens of an update", "tokens", "amount"),
    "warm_start/trained_tokens": Meaning("trained tokens of an update", "tokens", "amount"),
    "warm_start/tokens_per_second": Meaning("tokens a second", "tokens/s", "amount"),
    "warm_start/grad_norm": Meaning("gradient norm", "", "amount"),
    "warm_start/lr": Meaning("learning rate", "", "amount"),
    "warm_start/seconds": Meaning("seconds of an update", "s", "amount"),
    "step/seconds": Meaning("seconds of a step", "s", "amount"),
    "validation/success_rate": Meaning("solved in validation", "share", "rate"),
    "validation/success_rate_low": Meaning("the same, low end of 95%", "share", "rate"),
    "validation/success_rate_high": Meaning("the same, high end of 95%", "share", "rate"),
    "validation/reward_mean": Meaning("reward in validation", "", "free"),
    "validation/tokens_mean": Meaning("tokens of an episode in validation", "tokens", "amount"),
    "validation/episodes": Meaning("episodes of a validation", "episodes", "amount"),
    "validation/failed_episodes": Meaning("failed episodes in validation", "episodes", "amount"),
    "validation/seconds": Meaning("seconds of validation", "s", "amount"),
}
"""By the name in metrics.jsonl."""


_PARTS = {"reward/part/": "", "validation/part/": " in validation"}


def meaning_of(name: str) -> Meaning:
    """A name that is not known stands for itself."""
    if name in MEANINGS:
        return MEANINGS[name]
    metric, of, source = name.partition("/source/")
    if of:
        meaning = meaning_of(metric)
        return replace(meaning, words=f"{meaning.words}, {source}")
    if name.startswith(_BREAKS):
        kind = name.removeprefix(_BREAKS).replace("_", " ")
        return Meaning(f"new sequences, {kind}", "calls", "amount")
    for prefix, where in _PARTS.items():
        if name.startswith(prefix):
            return Meaning(f"{name.removeprefix(prefix)}, part of the reward{where}", "", "free")
    if name.startswith("reward/"):
        return Meaning(f"reward of {name.removeprefix('reward/')}", "", "free")
    return Meaning(name, "", "free")
