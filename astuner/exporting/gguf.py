"""`--to gguf`: one file for llama.cpp and all that is built on it, verified by llama.cpp itself."""

import logging
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast, get_args

from astuner.errors import ConfigError
from astuner.exporting import llama_cpp
from astuner.exporting.compare import TypeRounding, agreement_of, check_agreement, coarser
from astuner.exporting.format import (
    ExportAgreement,
    ExportRefused,
    ExportSource,
    ProbeReading,
)
from astuner.exporting.gguf_agreement import along_the_reply, check_distance
from astuner.exporting.gguf_conversion import (
    Conversion,
    check_architecture,
    check_converter,
    convert,
)
from astuner.exporting.gguf_types import BLOCK, STAND_INS, Quantization
from astuner.exporting.llama_cpp import LlamaCpp
from astuner.exporting.model_folder import ModelFolder
from astuner.exporting.reply_settings import ReplySettings
from astuner.inference.frozen_clock import reads_clock

logger = logging.getLogger(__name__)

QUANTIZATIONS: tuple[str, ...] = get_args(Quantization)

_WHOLE: Mapping[str, str] = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}
"""The types that a GGUF file holds without rounding to blocks, by transformers' names."""
_CONVERTED: Mapping[str, str] = {
    "f32": "ALL_F32",
    "f16": "MOSTLY_F16",
    "bf16": "MOSTLY_BF16",
    "q8_0": "MOSTLY_Q8_0",
}
_BITS: Mapping[str, float] = {
    "f32": 32,
    "f16": 16,
    "bf16": 16,
    "q8_0": 8.5,
    "q6_k": 6.6,
    "q5_k_m": 5.7,
    "q4_k_m": 4.9,
}
"""A weight, in files of large models. Rows that K types cannot hold take more."""
_ROOM_TO_REPLY = 64
_CUTS = (
    "I've 3 33 3333 things:  two   spaces,\ttabs\n\n\nlines\r\n, it's 12.50€ (~$14)!? Größe, "
    "naïve; 数字１２ и слово, 한국어 🦙🦙‍♀️ -- x=[1,2]; foo_bar->baz() // 100%\n    return 'x'  \n"
)
"""Text that pre-tokenizers cut differently, for tokens that no probe has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufFile:
    """The weights, tokenizer, chat template, end tokens and sampling of a model in one file."""

    quantization: Quantization | None
    """None: the type of the weights, float32 as f16."""
    replies: ReplySettings | None
    name: str = "gguf"

    @property
    def is_quantized(self) -> bool:
        return self.quantization is not None and self.quantization not in _WHOLE

    def num_bytes(self, source: ExportSource) -> int:
        """With what is needed on the way, which is gone at the end."""
        type_ = self._type(source)
        plain = ModelFolder(name="hf", dtype=None, replies=None).num_bytes(source)
        num_weights = plain // (4 if source.dtype == "float32" else 2)
        between = 0 if type_ in _CONVERTED else 2 * num_weights
        return plain + between + round(num_weights * _BITS[type_] / 8)

    def write(self, source: ExportSource, folder: Path) -> None:
        check_architecture(source.model.config.architectures)
        type_ = self._type(source)
        file = folder / file_name(source, type_)
        with tempfile.TemporaryDirectory(prefix=".converting-", dir=folder) as scratch:
            plain = Path(scratch, "model")
            plain.mkdir()
            ModelFolder(name="hf", dtype=None, replies=self.replies).write(source, plain)
            order = Conversion(
                folder=plain,
                file=file,
                file_type=_CONVERTED.get(type_, _halved(source)),
                name=model_name(source),
                tokenizer=source.tokenizer,
                stop_ids=source.stop_ids,
            )
            if type_ in _CONVERTED:
                convert(order)
            else:
                _convert_and_quantize(replace(order, file=Path(scratch, "whole.gguf")), file, type_)

    def check(self, source: ExportSource, folder: Path) -> ExportAgreement:
        (file,) = folder.glob("*.gguf")
        with llama_cpp.running(
            file, num_context=_num_context(source), num_threads=_num_threads()
        ) as runtime:
            return self.compare(source, runtime)

    def compare(self, source: ExportSource, runtime: LlamaCpp) -> ExportAgreement:
        """`check`, by a file that is loaded."""
        _check_tokens(runtime, source)
        _check_ends(runtime, source)
        agreement, readings = self._read(source, runtime)
        _check_chats(runtime, source)
        type_ = self._type(source)
        if type_ in _WHOLE:
            rounding = self._rounding(source)
            check_agreement(agreement, rounding, what="the gguf export", finer="--quantize f32")
            return agreement
        told = along_the_reply(agreement, source.probes, readings)
        check_distance(told, type_)
        return told

    def _read(
        self, source: ExportSource, runtime: LlamaCpp
    ) -> tuple[ExportAgreement, Sequence[ProbeReading]]:
        reads_time = reads_clock(str(source.tokenizer.chat_template))
        readings = [
            runtime.read(probe, text=probe.prompt_text if reads_time else None)
            for probe in source.probes
        ]
        agreement = agreement_of(
            source.probes,
            readings,
            runtime=llama_cpp.runtime_name(),
            rounding=self._rounding(source),
            decode=source.tokenizer.decode,
        )
        return agreement, readings

    def usage(self, source: ExportSource, folder: Path) -> str:
        file = folder / file_name(source, self._type(source))
        return _USAGE.format(file=file, folder=folder, name=model_name(source))

    def _type(self, source: ExportSource) -> Quantization:
        return self.quantization or ("bf16" if source.dtype == "bfloat16" else "f16")

    def _rounding(self, source: ExportSource) -> TypeRounding:
        return coarser(source.dtype, _WHOLE.get(self._type(source), "bfloat16"))


def gguf_file(quantize: str | None, replies: ReplySettings | None) -> GgufFile:
    """Raises ConfigError for a type that is not known, and for lack of what writes or verifies."""
    if quantize is not None and quantize.lower() not in QUANTIZATIONS:
        raise ConfigError(
            f"export --quantize {quantize}: not known; use one of {', '.join(QUANTIZATIONS)}"
        )
    check_converter()
    llama_cpp.check_installed()
    quantization = cast("Quantization | None", quantize and quantize.lower())
    return GgufFile(quantization=quantization, replies=replies)


def file_name(source: ExportSource, quantization: Quantization) -> str:
    """As llama.cpp's own files are named, with the type at the end."""
    return f"{model_name(source)}-{quantization.upper()}.gguf"


def model_name(source: ExportSource) -> str:
    """By the base and the checkpoint, in characters that any program takes for a name."""
    base = Path(source.base).name if source.base is not None else ""
    words = (base, source.folder.name if source.folder.name != base else "tuned")
    return "-".join(re.sub(r"[^\w.]+", "-", word).strip("-") for word in words if word)


def _convert_and_quantize(order: Conversion, file: Path, type_: Quantization) -> None:
    from astuner.exporting.gguf_quantizing import quantize_file

    convert(order)
    counts = quantize_file(order.file, file, type_, num_threads=_num_threads())
    stood_in = {name: counts[name] for name in STAND_INS if name in counts}
    if stood_in:
        logger.warning(
            "export --quantize %s: rows that are no multiple of %d weights cannot be K types, and "
            "take more bits as others: tensors=%s",
            *(type_, BLOCK, ", ".join(f"{name}:{count}" for name, count in stood_in.items())),
        )


def _halved(source: ExportSource) -> str:
    """What K types are made from: it rounds hundreds of times less than they do."""
    return "MOSTLY_BF16" if source.dtype == "bfloat16" else "MOSTLY_F16"


def _num_threads() -> int:
    """As many as torch takes, which OMP_NUM_THREADS and containers bound."""
    import torch

    return torch.get_num_threads()


def _num_context(source: ExportSource) -> int:
    return _ROOM_TO_REPLY + max(
        len(probe.prompt_ids) + len(probe.greedy_ids) for probe in source.probes
    )


def _check_tokens(runtime: LlamaCpp, source: ExportSource) -> None:
    """Raise ExportRefused where llama.cpp encodes text as other tokens."""
    ours = source.tokenizer.encode(_CUTS, add_special_tokens=False)
    theirs = runtime.encode_plain(_CUTS)
    if ours == theirs:
        return
    place = next(i for i, pair in enumerate(_padded(ours, theirs)) if pair[0] != pair[1])
    raise ExportRefused(
        f"the gguf export is refused: {runtime.name} makes other tokens of a text with numbers, "
        f"spaces and several scripts than the tokenizer does: token {place + 1} is "
        f"{_shown(source.tokenizer, theirs, place)}, not {_shown(source.tokenizer, ours, place)}. "
        "It has no pre-tokenizer that cuts as this one does; nothing of the export is kept. Export "
        "with --to hf, which transformers and vLLM load"
    )


def _padded(ours: Sequence[int], theirs: Sequence[int]) -> list[tuple[int | None, int | None]]:
    length = max(len(ours), len(theirs))
    return [
        (ours[i] if i < len(ours) else None, theirs[i] if i < len(theirs) else None)
        for i in range(length)
    ]


def _shown(tokenizer: Any, ids: Sequence[int], place: int) -> str:
    return repr(tokenizer.decode([ids[place]])) if place < len(ids) else "the end"


def _check_ends(runtime: LlamaCpp, source: ExportSource) -> None:
    """Raise ExportRefused for a token that ended replies in training and ends none there."""
    prompt = source.probes[0].prompt_ids
    deaf = [token for token in source.stop_ids if not runtime.ends_at(prompt, token)]
    if deaf:
        names = ", ".join(repr(source.tokenizer.decode([token])) for token in deaf)
        raise ExportRefused(
            f"the gguf export is refused: in training a reply ended at {names}, and "
            f"{runtime.name} goes on behind it: a GGUF file names three such tokens, and this "
            f"model has {len(source.stop_ids)}. Name fewer in eos_token_id of the checkpoint's "
            "generation_config.json, or export with --to hf"
        )


def _check_chats(runtime: LlamaCpp, source: ExportSource) -> None:
    """Raise ExportRefused where a chat request gets another prompt than the template alone makes,
    such as a second token that begins the text."""
    for probe in source.probes:
        length = runtime.chat_length(probe.messages, probe.tools)
        if length != len(probe.prompt_ids):
            raise ExportRefused(
                f"the gguf export is refused: asked as a chat, {runtime.name} makes {length} "
                f"tokens of the probe {probe.name!r}, and training {len(probe.prompt_ids)}. "
                "Nothing of it is kept; export with --to hf"
            )


_USAGE = """\
With llama.cpp, in a terminal or as a server of the OpenAI API:

```
llama-cli -m {file} --jinja -cnv
llama-server -m {file} --jinja --port 8080
```

`--jinja` uses the chat template of the file, which is the one of training; newer versions do by
themselves. Without llama.cpp at hand, `pip install xllamacpp` brings it:

```python
import xllamacpp

params = xllamacpp.CommonParams()
params.model.path = "{file}"
server = xllamacpp.Server(params)
messages = [{{"role": "user", "content": "Hello"}}]
print(server.handle_chat_completions({{"messages": messages}}))
```

LM Studio finds the file when the folder lies at `~/.lmstudio/models/astuner/{name}`.
"""
