"""From hidden states to logits, by the settings of the model's family. Shapes: N tokens, D hidden
size, V vocabulary."""

from typing import cast

from torch import Tensor, nn
from transformers import PreTrainedModel


def logits_of(model: PreTrainedModel, hidden_ND: Tensor) -> Tensor:
    """What the model's own forward makes of hidden states, by the settings of its family."""
    config = model.config.get_text_config()
    logits_NV = cast(nn.Module, model.get_output_embeddings())(hidden_ND)
    if scale := getattr(config, "logit_scale", None):  # Cohere
        logits_NV = logits_NV * scale
    if divisor := getattr(config, "logits_scaling", None):  # Granite
        logits_NV = logits_NV / divisor
    if cap := getattr(config, "final_logit_softcapping", None):  # Gemma
        logits_NV = (logits_NV / cap).tanh() * cap
    return logits_NV
