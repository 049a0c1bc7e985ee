"""The tokens of a reply as a caller is told them, with their log-probabilities."""

from astuner.inference.request import SampledToken
from astuner.inference.template import ChatTemplate
from astuner.types import Completion


def sampled_tokens(completion: Completion, template: ChatTemplate) -> tuple[SampledToken, ...]:
    """All tokens but the end token, each with those that the engine was asked for beside it."""
    tops = completion.top_logprobs or ((),) * len(completion.ids)
    sampled = zip(completion.ids, completion.logprobs, tops, strict=True)
    return tuple(
        _described(
            token,
            logprob,
            template,
            top=tuple(_described(other, value, template) for other, value in top),
        )
        for token, logprob, top in sampled
        if token not in template.stop_ids
    )


def _described(
    token: int, logprob: float, template: ChatTemplate, *, top: tuple[SampledToken, ...] = ()
) -> SampledToken:
    return SampledToken(
        text=template.encoding.token_text(token),
        utf8=template.encoding.token_bytes(token),
        logprob=logprob,
        top=top,
    )
