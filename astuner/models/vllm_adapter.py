"""Which adapters vLLM can serve on their base, so that nobody learns it behind the training.

Its rules as of vLLM 0.11 to 0.32: vllm/config/lora.py (ranks) and vllm/lora/peft_helper.py (what an
adapter_config.json may hold). An adapter's rank may be anything up to the --max-lora-rank of the
server, which is one of a few numbers.
"""

from collections.abc import Iterable, Mapping
from typing import Any

MAX_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Values of --max-lora-rank."""
_NOT_SERVED = ("lm_head", "embed_tokens", "wte", "embed_out")
"""Layers for whose adapters most models have no place there."""
_NOT_READ = (
    *("modules_to_save", "use_dora", "lora_bias", "layer_replication", "use_bdlora", "use_qalora"),
    "alora_invocation_tokens",
)
"""Keys of adapter_config.json that change what an adapter computes."""


def max_rank_for(rank: int) -> int | None:
    """The --max-lora-rank that serves an adapter of this rank; None where none does."""
    return next((largest for largest in MAX_RANKS if largest >= rank), None)


def rank_objection(rank: int) -> str | None:
    """Why vLLM serves no adapter of this rank, with what to do; None where it does."""
    if max_rank_for(rank) is not None:
        return None
    return (
        f"vLLM serves adapters up to rank {MAX_RANKS[-1]}, and this one has {rank}: set model.lora."
        f"rank to {MAX_RANKS[-1]} or less, or serve the merged model (astuner export --to merged)"
    )


def unserved_layers(targets: Iterable[str]) -> list[str]:
    """Those of the names, or ends of names, of layers with adapters that vLLM does not serve."""
    return sorted({name for name in targets if name.rpartition(".")[2] in _NOT_SERVED})


def target_objection(targets: Iterable[str]) -> str | None:
    """Why vLLM serves no adapters of these layers, with what to do; None where it does."""
    found = unserved_layers(targets)
    if not found:
        return None
    return (
        f"vLLM serves no adapters of {', '.join(found)}: leave them out of "
        "model.lora.target_modules, or serve the merged model (astuner export --to merged)"
    )


def config_objections(config: Mapping[str, Any], layers: Iterable[str]) -> list[str]:
    """All that vLLM would refuse, or read otherwise than peft, of an adapter_config.json; `layers`
    are those that have weights in the adapter."""
    merge = "serve the merged model (astuner export --to merged)"
    found = [rank_objection(config["r"]), target_objection(layers)]
    if not config.get("lora_alpha"):
        found.append(
            "its lora_alpha is 0, with which it computes nothing; set model.lora.alpha above 0"
        )
    for key in ("rank_pattern", "alpha_pattern"):
        if config.get(key):
            found.append(f"not every release of vLLM reads its {key}; {merge}")
    for key in _NOT_READ:
        if config.get(key):
            found.append(f"vLLM serves no adapters with {key}; {merge}")
    if config.get("bias", "none") != "none":
        found.append(f"vLLM serves no adapters with a bias; {merge}")
    return [objection for objection in found if objection is not None]
