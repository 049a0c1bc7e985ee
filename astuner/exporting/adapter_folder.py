"""`--to adapter`: what was trained beside the base, as peft reads it and vLLM serves it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from astuner.errors import ConfigError
from astuner.exporting.compare import SAME_COMPUTATION, check_agreement, coarser
from astuner.exporting.format import ExportAgreement, ExportRefused, ExportSource
from astuner.exporting.model_folder import read_again, transformers_name
from astuner.exporting.reply_settings import ReplySettings, write_reply_settings

_CONFIG = "adapter_config.json"
_WEIGHTS = "adapter_model.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterFolder:
    """The adapter's matrices and settings, the tokenizer, chat template and generation settings."""

    dtype: str | None
    """Of the matrices; None: that of the checkpoint."""
    replies: ReplySettings | None
    name: str = "adapter"
    is_quantized: bool = False

    def num_bytes(self, source: ExportSource) -> int:
        return sum(p.nbytes for n, p in source.model.named_parameters() if "lora_" in n)

    def write(self, source: ExportSource, folder: Path) -> None:
        """Raises ExportRefused for an adapter that vLLM would not serve, with all reasons."""
        from astuner.models.adapter import read_adapter_config

        weights = _read_weights(source.folder, self.dtype)
        config = _config_to_write(source, read_adapter_config(source.folder))
        _check_served(config, weights)
        _write_weights(folder, weights)
        text = json.dumps(config, indent=2, sort_keys=True)
        (folder / _CONFIG).write_text(f"{text}\n", encoding="utf-8")
        source.tokenizer.save_pretrained(folder)
        write_reply_settings(folder, source, self.replies)

    def check(self, source: ExportSource, folder: Path) -> ExportAgreement:
        assert source.base_at_hand is not None, "an adapter was loaded on its base"
        is_same = self.dtype in (None, source.dtype)
        rounding = SAME_COMPUTATION if is_same else coarser(source.dtype, str(self.dtype))
        agreement = read_again(
            source,
            source.base_at_hand,
            dtype=source.dtype,
            runtime=f"peft {version('peft')} on {transformers_name()}",
            rounding=rounding,
            adapter=folder,
        )
        check_agreement(agreement, rounding, what="the adapter export")
        return agreement

    def usage(self, source: ExportSource, folder: Path) -> str:
        from astuner.models.adapter import read_adapter_config
        from astuner.models.vllm_adapter import max_rank_for

        rank = read_adapter_config(source.folder)["r"]
        return _USAGE.format(
            folder=folder, base=source.base, name=folder.name, max_rank=max_rank_for(rank)
        )


def _read_weights(folder: Path, dtype: str | None) -> dict[str, Any]:
    import torch
    from safetensors.torch import load_file

    weights = load_file(folder / _WEIGHTS)
    if dtype is None:
        return weights
    converted = {name: weight.to(getattr(torch, dtype)) for name, weight in weights.items()}
    for name, weight in converted.items():
        if not weight.isfinite().all():
            raise ExportRefused(
                f"export --dtype {dtype}: {name} has numbers that {dtype} does not hold; use "
                "bfloat16 or float32"
            )
    return converted


def _write_weights(folder: Path, weights: Mapping[str, Any]) -> None:
    from safetensors.torch import save_file

    tensors = {name: weight.contiguous() for name, weight in weights.items()}
    save_file(tensors, folder / _WEIGHTS, metadata={"format": "pt"})


def _config_to_write(source: ExportSource, config: Mapping[str, Any]) -> dict[str, Any]:
    """That of the checkpoint, on the base by the name that it is to be found by."""
    targets = config.get("target_modules")
    return {
        **config,
        "base_model_name_or_path": source.base,
        "inference_mode": True,
        "target_modules": sorted(targets) if isinstance(targets, list) else targets,
    }


def _check_served(config: Mapping[str, Any], weights: Mapping[str, Any]) -> None:
    from astuner.models.vllm_adapter import config_objections

    layers = {name.partition(".lora_")[0] for name in weights}
    objections = config_objections(config, layers)
    if objections:
        raise ExportRefused(f"the adapter export is refused: {'; '.join(objections)}")


def check_is_adapter(folder: Path) -> None:
    """Raises ConfigError for a whole model."""
    if not (folder / _CONFIG).is_file():
        raise ConfigError(
            f"export: {folder} is a whole model, with no adapter beside it; use --to hf. A run "
            "trains an adapter where model.lora.rank is set"
        )


_USAGE = """\
With transformers and peft, on its base:

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{folder}")
base = AutoModelForCausalLM.from_pretrained("{base}", dtype="auto")
model = PeftModel.from_pretrained(base, "{folder}")
```

With vLLM, as a server of the OpenAI API. Ask for the model `{name}`: asked for its base by name,
the server answers with the base.

```
vllm serve {base} --enable-lora --max-lora-rank {max_rank} \\
    --lora-modules {name}={folder} --chat-template {folder}/chat_template.jinja
```
"""
