"""`--to hf` and `--to merged`: a plain model as a folder that transformers and vLLM load."""

import gc
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from astuner.errors import ConfigError
from astuner.exporting.compare import (
    SAME_COMPUTATION,
    TypeRounding,
    agreement_of,
    check_agreement,
    coarser,
)
from astuner.exporting.format import ExportAgreement, ExportRefused, ExportSource
from astuner.exporting.probes import read_probe
from astuner.exporting.reply_settings import ReplySettings, write_reply_settings

DTYPES = ("float32", "bfloat16", "float16")
"""That weights are written in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFolder:
    """Weights, configuration, tokenizer, chat template and generation settings."""

    name: str
    dtype: str | None
    """Of the weights; None: that of the checkpoint."""
    replies: ReplySettings | None
    """None: the run is not known."""
    is_quantized: bool = False

    def num_bytes(self, source: ExportSource) -> int:
        size = 4 if self._dtype(source) == "float32" else 2
        return size * sum(
            parameter.numel()
            for name, parameter in source.model.named_parameters()
            if "lora_" not in name
        )

    def write(self, source: ExportSource, folder: Path) -> None:
        """The weights of the source are merged and converted in place: no second copy is held."""
        from astuner.models.adapter import has_adapter, merge_in_place

        if self.name == "merged" and not has_adapter(source.model):
            raise ConfigError(
                f"export: {source.folder} is a whole model, with no adapter to merge; use --to hf"
            )
        _convert(source.model, self._dtype(source))
        plain: Any = merge_in_place(source.model)
        plain.save_pretrained(folder)
        source.tokenizer.save_pretrained(folder)
        write_reply_settings(folder, source, self.replies)

    def check(self, source: ExportSource, folder: Path) -> ExportAgreement:
        dtype = self._dtype(source)
        is_same = dtype == source.dtype and source.base_readings is None
        rounding = SAME_COMPUTATION if is_same else coarser(source.dtype, dtype)
        agreement = read_again(
            source, folder, dtype=dtype, runtime=transformers_name(), rounding=rounding
        )
        check_agreement(agreement, rounding, what=f"the {self.name} export")
        return agreement

    def usage(self, source: ExportSource, folder: Path) -> str:
        return _USAGE.format(folder=folder)

    def _dtype(self, source: ExportSource) -> str:
        return self.dtype or source.dtype


def read_again(
    source: ExportSource,
    folder: Path | str,
    *,
    dtype: str,
    runtime: str,
    rounding: TypeRounding,
    adapter: Path | None = None,
) -> ExportAgreement:
    """What a fresh model of transformers from the folder makes of the probes, by the tokenizer
    beside it; with an `adapter`, on that base and by the tokenizer beside the adapter."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
    if adapter is not None:
        from peft import PeftModel

        from astuner.models.adapter import peft_warnings_off

        # As it was trained: by default peft computes adapters in float32.
        with peft_warnings_off():
            model = PeftModel.from_pretrained(model, str(adapter), autocast_adapter_dtype=False)
    model = model.to(source.device).eval()
    tokenizer = AutoTokenizer.from_pretrained(adapter or folder)
    readings = [read_probe(model, tokenizer, probe) for probe in source.probes]
    del model
    gc.collect()
    return agreement_of(
        source.probes,
        readings,
        runtime=runtime,
        rounding=rounding,
        decode=tokenizer.decode,
    )


def transformers_name() -> str:
    from importlib.metadata import version

    return f"transformers {version('transformers')}"


def _convert(model: Any, dtype: str) -> None:
    """Each weight after the other, so that one more of them is held at a time.

    Raises ExportRefused for one that the type does not hold.
    """
    import torch

    wanted = getattr(torch, dtype)
    for name, parameter in model.named_parameters():
        if parameter.dtype != wanted and parameter.is_floating_point():
            parameter.data = parameter.data.to(wanted)
            if not parameter.data.isfinite().all():
                raise ExportRefused(
                    f"export --dtype {dtype}: {name} has numbers that {dtype} does not hold; use "
                    "bfloat16 or float32"
                )
    model.config.dtype = wanted


_USAGE = """\
With transformers:

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{folder}")
model = AutoModelForCausalLM.from_pretrained("{folder}", dtype="auto")
messages = [{{"role": "user", "content": "Hello"}}]
inputs = tokenizer.apply_chat_template(
    messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
)
reply = model.generate(**inputs, max_new_tokens=256)[0, inputs["input_ids"].shape[1] :]
print(tokenizer.decode(reply, skip_special_tokens=True))
```

With vLLM, as a server of the OpenAI API:

```
vllm serve {folder}
```
"""
