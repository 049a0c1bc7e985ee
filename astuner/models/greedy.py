"""What a model finds the most likely, token by token, to hold it against the same model elsewhere.

Plain passes of the model's own forward, without an engine. Shapes: T tokens, V vocabulary.
"""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_NUM_NEAR = 8
"""In bfloat16 several tokens often have the very same logit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedTokens:
    """Of tokens behind a prompt, in each of their places."""

    likeliest_ids: Sequence[int]
    near: Sequence[Mapping[int, float]]
    """The few most likely, with their logprobs."""
    logprobs: Sequence[float]
    """Natural log, of the tokens themselves, at temperature 1."""


@torch.no_grad()
def greedy_ids(
    model: Any, prompt_ids: Sequence[int], *, max_tokens: int, stop_ids: Container[int]
) -> tuple[int, ...]:
    """The most likely reply to a prompt, the first of `stop_ids` included where it comes."""
    found: list[int] = []
    passed: Any = None
    given = list(prompt_ids)
    while len(found) < max_tokens and not (found and found[-1] in stop_ids):
        passed = model(
            input_ids=torch.tensor([given], device=model.device),
            past_key_values=passed and passed.past_key_values,
            use_cache=True,
        )
        given = [int(passed.logits[0, -1].argmax())]
        found += given
    return tuple(found)


@torch.no_grad()
def ranked_tokens(model: Any, prompt_ids: Sequence[int], ids: Sequence[int]) -> RankedTokens:
    """What the model finds likely in the place of each of `ids`, in one pass over all of them."""
    if not ids:
        return RankedTokens(likeliest_ids=(), near=(), logprobs=())
    ids_1T = torch.tensor([[*prompt_ids, *ids]], device=model.device)
    logits_TV = model(input_ids=ids_1T, use_cache=False).logits[0, len(prompt_ids) - 1 : -1]
    logprobs_TV: Tensor = logits_TV.float().log_softmax(-1)
    best = logprobs_TV.topk(min(_NUM_NEAR, logprobs_TV.shape[-1]), dim=-1)
    own_T = logprobs_TV.gather(-1, ids_1T[0, len(prompt_ids) :, None])[:, 0]
    return RankedTokens(
        likeliest_ids=tuple(best.indices[:, 0].tolist()),
        near=tuple(
            dict(zip(ids, values, strict=True))
            for ids, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ),
        logprobs=tuple(own_T.tolist()),
    )
