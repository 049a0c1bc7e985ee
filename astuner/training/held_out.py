"""The loss on samples that are not trained."""

from collections.abc import Callable, Sequence

import torch
from transformers import PreTrainedModel

from astuner.training.packing import pack
from astuner.training.score import score_batch
from astuner.training.switches import training_switches
from astuner.trajectory.samples import TrainSample


def mean_negative_log_likelihood(
    model: PreTrainedModel,
    samples: Sequence[TrainSample],
    *,
    max_tokens: int,
    on_batch: Callable[[], None] = lambda: None,
) -> float:
    """Nats a token, over all trained tokens of the samples, each at its temperature.

    `max_tokens` bounds a pass; a longer sample goes alone. What `on_batch`, called behind each
    pass, raises ends it.
    """
    total, num_tokens = 0.0, 0
    with training_switches(model.device):
        temperature_S = torch.tensor([s.temperature for s in samples], device=model.device)
        for batch in pack(samples, max_tokens=max_tokens, device=model.device):
            scores = score_batch(model, batch, temperature_S[batch.sample_N])
            total -= scores.logprob_N.double().sum().item()
            num_tokens += len(scores.logprob_N)
            on_batch()
    return total / num_tokens
