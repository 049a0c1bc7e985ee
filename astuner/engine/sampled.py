"""From the tokens that an engine sampled to the completion of a call."""

from typing import NamedTuple

from astuner.engine.protocol import Sampling
from astuner.types import Completion, FinishReason, TopLogprobs


class SampledTokens(NamedTuple):
    """The tokens of one call, at least one, in the order in which they were sampled.

    Two tokens of a call that asked for the most probable one beside each:
    SampledTokens((9, 4), (-0.1, -2.0), (((9, -0.1),), ((7, -0.5),)), is_cut=False).
    """

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    """Natural log, one per id, of the distribution that it was sampled from."""
    top_logprobs: tuple[TopLogprobs, ...]
    """One per id, with at least as many tokens as the call asked for beside it."""
    is_cut: bool
    """Whether the call's observer wanted no more."""


def to_completion(
    tokens: SampledTokens, sampling: Sampling, *, num_new_tokens: int, weight_version: int
) -> Completion:
    """What a call is answered that could have got `num_new_tokens` tokens at most."""
    num_top = sampling.num_top_logprobs
    return Completion(
        ids=tokens.ids,
        logprobs=tokens.logprobs,
        top_logprobs=tuple(top[:num_top] for top in tokens.top_logprobs) if num_top else None,
        finish_reason=_finish_reason(tokens, sampling, num_new_tokens),
        weight_version=weight_version,
    )


def _finish_reason(tokens: SampledTokens, sampling: Sampling, num_new_tokens: int) -> FinishReason:
    if tokens.is_cut:
        return "cut"
    if tokens.ids[-1] in sampling.stop_ids:
        return "stop"
    return "length" if num_new_tokens == sampling.max_new_tokens else "context_overflow"
