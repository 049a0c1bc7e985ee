"""How a packed batch goes through the policy: scores of its trained tokens, and their gradient.

Owns no loss. Shapes: T flat tokens, N trained tokens, D hidden size, V vocabulary.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from astuner.models.logits import logits_of
from astuner.training.packed_attention import packed_attention_enabled
from astuner.training.packing import PackedBatch

_CHUNK_ELEMENTS = 2**25
"""Most logits alive at once on a CPU: in bfloat16 64 MiB, and as much of gradient."""

_CHUNK_SHARE = 128
"""On a GPU they take at most this part of its memory. Every chunk adds to the gradient of the whole
output layer, so that few large ones are faster."""

_CACHED_ELEMENTS = 2**20
"""Of these, most that are in float32 at once on a CPU: 4 MiB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenScores:
    """What the policy says about tokens, in float32."""

    logprob_N: Tensor
    """Natural log-probability of the token at its temperature; differentiable."""
    entropy_N: Tensor
    """Of the whole distribution at that temperature, in nats; not differentiable."""


ChunkLoss = Callable[[slice, TokenScores], Tensor]
"""From a chunk of the batch's trained tokens and their scores to its part of the loss, a scalar."""


@torch.no_grad()
def score_batch(model: PreTrainedModel, batch: PackedBatch, temperature_N: Tensor) -> TokenScores:
    """Score the trained tokens of a batch, in the batch's order, without gradient."""
    with packed_attention_enabled(model):
        predicting_ND = _predicting_states(model, batch)
    scores = [
        _score_chunk(model, predicting_ND[chunk], batch.target_N[chunk], temperature_N[chunk])
        for chunk in _chunks(model, len(predicting_ND))
    ]
    return TokenScores(
        logprob_N=torch.cat([s.logprob_N for s in scores]),
        entropy_N=torch.cat([s.entropy_N for s in scores]),
    )


def backward_batch(
    model: PreTrainedModel, batch: PackedBatch, temperature_N: Tensor, chunk_loss: ChunkLoss
) -> None:
    """Add the gradient of the batch's loss to the model's parameters.

    The loss is the sum of `chunk_loss` over chunks that cover the trained tokens in order. Each
    chunk runs back to the hidden states before the next one starts, so `[N, V]` is never whole in
    memory and no logits are computed twice.
    """
    # Around the backward pass too: gradient checkpointing runs layers again there.
    with packed_attention_enabled(model):
        predicting_ND = _predicting_states(model, batch)
        gradients: list[Tensor] = []
        for chunk in _chunks(model, len(predicting_ND)):
            leaf_ND = predicting_ND[chunk].detach().requires_grad_()
            scores = _score_chunk(model, leaf_ND, batch.target_N[chunk], temperature_N[chunk])
            chunk_loss(chunk, scores).backward()
            assert leaf_ND.grad is not None
            gradients.append(leaf_ND.grad)
        predicting_ND.backward(torch.cat(gradients))


def enable_gradient_checkpointing(model: PreTrainedModel) -> None:
    """Compute each layer again in the backward pass, while the model is in training mode.

    Dropout, which that mode would switch on, is set to 0: the log-probabilities are to be those of
    the model that sampled.
    """
    # The name since transformers 5.23, and before.
    enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
    enable({"use_reentrant": False})
    for name, module in model.named_modules():
        if isinstance(module, nn.Dropout) and "lora" not in name:
            module.p = 0.0
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0  # type: ignore[assignment]  # a plain number there


def _predicting_states(model: PreTrainedModel, batch: PackedBatch) -> Tensor:
    """Hidden states (N, D) of the tokens before the trained ones."""
    output = model.get_decoder()(
        input_ids=batch.id_T[None],
        position_ids=batch.position_T[None],
        use_cache=False,
        packed_layout=batch.layout,
    )
    return output.last_hidden_state[0].index_select(0, batch.predictor_N)


def _chunks(model: PreTrainedModel, num_tokens: int) -> Iterator[slice]:
    vocabulary = model.config.get_text_config().vocab_size
    size = max(16, _chunk_elements(model.device) // vocabulary)
    return (slice(start, start + size) for start in range(0, num_tokens, size))


def num_logit_bytes(device: torch.device) -> int:
    """Of a chunk's logits, their gradient and one temporary, in two bytes each."""
    return 3 * 2 * _chunk_elements(device)


def _chunk_elements(device: torch.device) -> int:
    if device.type != "cuda":
        return _CHUNK_ELEMENTS
    return torch.cuda.get_device_properties(device).total_memory // _CHUNK_SHARE // 2


def _score_chunk(
    model: PreTrainedModel, hidden_ND: Tensor, target_N: Tensor, temperature_N: Tensor
) -> TokenScores:
    logits_NV = logits_of(model, hidden_ND)
    logprob_N, entropy_N = _TargetScore.apply(logits_NV, target_N, temperature_N)
    return TokenScores(logprob_N=logprob_N, entropy_N=entropy_N)


class _TargetScore(torch.autograd.Function):
    """log softmax(logits / temperature)[target] and entropy, in float32.

    Keeps nothing of size V in float32: on a CPU, slices of rows stay in the processor's cache; on a
    GPU, one kernel reads each row once. The shares are computed again in the backward pass.
    """

    @staticmethod
    def forward(
        ctx: Any, logits_NV: Tensor, target_N: Tensor, temperature_N: Tensor
    ) -> tuple[Tensor, Tensor]:
        if logits_NV.is_cuda:
            from astuner.training.score_kernel import score_rows

            scored = score_rows(logits_NV, target_N, temperature_N)
        else:
            scored = _score_rows(logits_NV, target_N, temperature_N)
        ctx.save_for_backward(logits_NV, target_N, temperature_N, scored[2])
        ctx.mark_non_differentiable(scored[1])
        return scored[0], scored[1]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        logits_NV, target_N, temperature_N, lse_N = ctx.saved_tensors
        if logits_NV.is_cuda:
            from astuner.training.score_kernel import score_gradient

            differentiate = score_gradient
        else:
            differentiate = _score_gradient
        slope_N = grads[0].contiguous()
        return differentiate(logits_NV, target_N, temperature_N, lse_N, slope_N), None, None


def _score_rows(
    logits_NV: Tensor, target_N: Tensor, temperature_N: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probability of the target, entropy and log-sum-exp of each row."""
    logprob_N, entropy_N, lse_N = (torch.empty_like(temperature_N) for _ in range(3))
    for rows in _row_slices(logits_NV):
        score_NV = logits_NV[rows] / temperature_N[rows, None]
        top_N1 = score_NV.amax(-1, keepdim=True)
        score_NV.sub_(top_N1)
        target_score_N = score_NV.gather(1, target_N[rows, None]).squeeze(1)
        share_NV = score_NV.exp()
        total_N = share_NV.sum(-1)
        log_total_N = total_N.log()
        logprob_N[rows] = target_score_N - log_total_N
        entropy_N[rows] = log_total_N - share_NV.mul_(score_NV).sum(-1) / total_N
        lse_N[rows] = top_N1.squeeze(1) + log_total_N
    return logprob_N, entropy_N, lse_N


def _score_gradient(
    logits_NV: Tensor, target_N: Tensor, temperature_N: Tensor, lse_N: Tensor, slope_N: Tensor
) -> Tensor:
    """The gradient of the logits, where `slope_N` is that of the log-probabilities."""
    slope_N = slope_N / temperature_N
    gradient_NV = torch.empty_like(logits_NV)
    for rows in _row_slices(logits_NV):
        share_NV = logits_NV[rows] / temperature_N[rows, None]
        share_NV.sub_(lse_N[rows, None]).exp_().mul_(-slope_N[rows, None])
        share_NV.scatter_add_(1, target_N[rows, None], slope_N[rows, None])
        gradient_NV[rows] = share_NV
    return gradient_NV


def _row_slices(logits_NV: Tensor) -> Iterator[slice]:
    num_rows, vocabulary = logits_NV.shape
    size = num_rows
    if logits_NV.device.type == "cpu":
        size = max(1, _CACHED_ELEMENTS // vocabulary)
    return (slice(start, start + size) for start in range(0, num_rows, size))
