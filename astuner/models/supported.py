"""Can our attention compute a model? Asked of its configuration alone, before anything is loaded.

A model without storage runs once, with an attention that computes nothing and notes what it is asked
for. Whether the packed pass gives the model's own numbers is measured later, on the real weights.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedConfig
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from astuner.errors import ConfigError
from astuner.models.source import load_config

_ATTENTION_NAME = "astuner_asked"
_KINDS = {"full_attention", "sliding_attention"}
_NUM_TOKENS = 8
_ERRORS = (RuntimeError, ValueError, TypeError, AttributeError, KeyError, ImportError)


def check_supported(path: str) -> None:
    """Raise ConfigError for a model that can neither generate nor be trained here."""
    config = load_config(path)
    if config is None:  # loading it says why
        return
    problem = what_is_unsupported(config)
    if problem is not None:
        raise ConfigError(
            f"model.path: {path} is of the family {config.model_type}: {problem}; our attention is "
            "causal, full or in a sliding window, with or without a soft cap. Take a model of "
            "another family, such as Llama, Qwen 2 or 3, Mistral, Gemma 1 to 3 or Phi 3; those that "
            "were tried are a table in docs/local_backbone.md"
        )


def what_is_unsupported(config: PreTrainedConfig) -> str | None:
    """What our attention does not compute of such a model; None where nothing is known."""
    text: Any = config.get_text_config()
    kinds = sorted(set(getattr(text, "layer_types", None) or _KINDS) - _KINDS)
    if kinds:
        return f"it has layers of the kind {', '.join(kinds)}"
    if getattr(text, "use_bidirectional_attention", False):
        return "its attention is bidirectional"
    if _has_heads_by_layer(text):
        return "its layers have heads of different sizes"
    asked = _Asked()
    model = _ask(config, asked)
    if model is not None and any(hasattr(m, "sinks") for m in model.modules()):
        return "it has attention sinks"
    if asked.names:
        return f"its attention has {', '.join(sorted(asked.names))}"
    if asked.is_finished and asked.num_calls < text.num_hidden_layers:
        return "its attention cannot be replaced by ours"
    return None


class _Asked:
    """What the layers of a model asked its attention for."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.num_calls = 0
        self.is_finished = False

    def attend(
        self,
        _module: Any,
        query: Tensor,
        _key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        **given: Any,
    ) -> tuple[Tensor, None]:
        """With the signature that transformers calls; the result has the right shape."""
        self.num_calls += 1
        wanted = {
            "a mask of its own": attention_mask is not None,
            "position biases": given.get("position_bias") is not None,
            "sinks": given.get("s_aux") is not None,
            "no way to be told where its tokens belong": given.get("paged_pass") is None,
        }
        self.names |= {name for name, is_wanted in wanted.items() if is_wanted}
        return query.new_empty((*query.shape[:-1], value.shape[-1])).transpose(1, 2), None


def _has_heads_by_layer(text: Any) -> bool:
    try:
        getattr(text, "head_dim", None)
    except RuntimeError:  # transformers refuses to name one for all
        return True
    return False


@torch.no_grad()
def _ask(config: PreTrainedConfig, asked: _Asked) -> nn.Module | None:
    """The model without storage, after a pass if it can make one."""
    # Registered here, so that no model can use it by accident.
    ALL_ATTENTION_FUNCTIONS.register(_ATTENTION_NAME, asked.attend)
    try:
        with torch.device("meta"):
            # A copy: the attention of a model is a field of its configuration.
            model: Any = AutoModelForCausalLM.from_config(copy.deepcopy(config))
    except _ERRORS:
        return None  # loading it says why
    ids = torch.zeros((1, _NUM_TOKENS), dtype=torch.int64, device="meta")
    places = torch.arange(_NUM_TOKENS, device="meta")[None]
    try:
        model.eval().set_attn_implementation(_ATTENTION_NAME)
        model.get_decoder()(
            input_ids=ids, position_ids=places, use_cache=False, paged_pass=asked
        )
        asked.is_finished = True
    except _ERRORS:
        # Some experts choose their tokens by values, of which there are none.
        asked.is_finished = model.config._attn_implementation != _ATTENTION_NAME
    return model
