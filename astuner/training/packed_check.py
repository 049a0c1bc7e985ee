"""Does a model work in packed form? Asked once, before training starts."""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from astuner.errors import BackboneError
from astuner.training.packing import pack
from astuner.training.score import score_batch
from astuner.trajectory.samples import TrainSample


@torch.no_grad()
def verify_packed_pass(model: PreTrainedModel) -> None:
    """Raise BackboneError unless packed samples score as the model's own forward scores them.

    Runs a few made-up samples of some twenty tokens. Catches layers that mix tokens other than by
    attention, and logits that are made in a way unknown here.
    """
    _check_layers(model)
    samples = _made_up_samples(model.config.get_text_config().vocab_size)
    (batch,) = pack(samples, max_tokens=10_000, device=model.device)
    temperature_N = torch.ones(len(batch.target_N), device=model.device)
    packed_N = score_batch(model, batch, temperature_N).logprob_N
    alone = _logprobs_alone(model, samples)
    alone_N = torch.cat([alone[index] for index in batch.sample_N.unique_consecutive().tolist()])
    gap = (packed_N - alone_N).abs().mean().item()
    # Rounding alone gave 0.07 (bfloat16) and 1e-5 (float32) with 135M parameters.
    limit = 1e-3 if model.dtype == torch.float32 else 0.5
    if not gap <= limit:
        raise BackboneError(
            f"training cannot start: {type(model).__name__} scores packed samples {gap:.3g} nats "
            f"away from its own forward, at most {limit} is rounding; its layers are not of a "
            "supported kind. Use a model such as Llama, Qwen, Gemma or Mistral"
        )


def _check_layers(model: PreTrainedModel) -> None:
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    unsupported = sorted(kinds - {"full_attention", "sliding_attention"})
    if unsupported or getattr(config, "use_bidirectional_attention", False):
        raise BackboneError(
            f"training cannot start: {type(model).__name__} has layers of kind "
            f"{unsupported or 'bidirectional attention'}, and packed training supports causal "
            "full and sliding attention only; use another model"
        )


def _made_up_samples(vocabulary: int) -> list[TrainSample]:
    generator = torch.Generator().manual_seed(0)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(vocabulary, (count,), generator=generator).tolist())

    prompt = ids(18)
    return [
        TrainSample(
            ids=prompt + ids(count),
            mask=(False,) * 20 + (True,) * (count - 2),
            logprobs=(0.0,) * (18 + count),
            advantage=0.0,
            temperature=1.0,
            weight_version=0,
            task_id="",
            episode_id="",
        )
        for count in (6, 4, 7)
    ]


def _logprobs_alone(model: PreTrainedModel, samples: Sequence[TrainSample]) -> list[Tensor]:
    """By plain attention: of the faster ones some leave out a layer's soft cap."""
    before = model.config._attn_implementation or "sdpa"
    model.set_attn_implementation("eager")
    try:
        return [_logprobs_of(model, sample) for sample in samples]
    finally:
        model.set_attn_implementation(before)


def _logprobs_of(model: PreTrainedModel, sample: TrainSample) -> Tensor:
    id_T = torch.tensor(sample.ids, device=model.device)
    logits_TV = model(input_ids=id_T[None], use_cache=False).logits[0, :-1].float()
    logprob_T = logits_TV.log_softmax(-1).gather(1, id_T[1:, None]).squeeze(1)
    return logprob_T[torch.tensor(sample.mask[1:], device=model.device)]
