"""`--to ollama`: the GGUF file with a Modelfile that `ollama create` reads.

The file is verified in llama.cpp, on which Ollama is built; Ollama itself is not asked.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from astuner.exporting.format import ExportAgreement, ExportSource
from astuner.exporting.gguf import GgufFile, model_name
from astuner.exporting.ollama_template import OllamaTemplate, ollama_template
from astuner.exporting.probes import plain_prompt
from astuner.exporting.reply_settings import ReplySettings
from astuner.types import Message

MODELFILE = "Modelfile"
_TALKS: Sequence[Sequence[Message]] = (
    [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "1."},
        {"role": "user", "content": "Two?"},
        {"role": "assistant", "content": "2."},
        {"role": "user", "content": "Three?"},
    ],
    [
        {"role": "user", "content": " a question with edges \n"},
        {"role": "assistant", "content": "\nan answer with edges "},
        {"role": "user", "content": "and\n\nanother"},
    ],
)
"""Beside the probes, which the template is held against, too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OllamaFolder:
    """A GGUF file and what Ollama has to know beyond it."""

    file: GgufFile
    num_context: int | None
    """Tokens of a conversation, as the run had them; None: as Ollama takes by itself."""
    name: str = "ollama"

    @property
    def is_quantized(self) -> bool:
        return self.file.is_quantized

    def num_bytes(self, source: ExportSource) -> int:
        return self.file.num_bytes(source)

    def write(self, source: ExportSource, folder: Path) -> None:
        self.file.write(source, folder)
        (file,) = folder.glob("*.gguf")
        text = modelfile(source, file.name, replies=self.file.replies, num_context=self.num_context)
        (folder / MODELFILE).write_text(text, encoding="utf-8")

    def check(self, source: ExportSource, folder: Path) -> ExportAgreement:
        return self.file.check(source, folder)

    def usage(self, source: ExportSource, folder: Path) -> str:
        template = _template(source)
        return _USAGE.format(
            folder=folder,
            name=model_name(source).lower(),
            template=_NO_TEMPLATE if template is None else _WITH_TEMPLATE,
        )


def modelfile(
    source: ExportSource, file: str, *, replies: ReplySettings | None, num_context: int | None
) -> str:
    """What `ollama create` reads, with the file in the same folder."""
    template = _template(source)
    lines = [f"FROM ./{file}"]
    if template is None:
        lines += [f"# {line}" for line in _NO_TEMPLATE.splitlines()]
    else:
        lines.append(f'TEMPLATE """{template.text()}"""')
        if template.system is not None:
            lines.append(f'SYSTEM """{template.system}"""')
    lines += [f"PARAMETER {name} {value}" for name, value in _parameters(source, replies)]
    if num_context is not None:
        lines.append(f"PARAMETER num_ctx {num_context}")
    lines += ["# The licence is that of the base model: LICENSE takes its text."]
    return "\n".join(lines) + "\n"


def _parameters(
    source: ExportSource, replies: ReplySettings | None
) -> Sequence[tuple[str, str | float]]:
    """Of replies, as in validation; Ollama would repeat itself less, which nobody trained."""
    ends = [source.tokenizer.decode([token]) for token in source.stop_ids]
    stops = [("stop", json.dumps(end, ensure_ascii=False)) for end in ends if end.isprintable()]
    sampling: list[tuple[str, str | float]] = [("repeat_penalty", 1.0)]
    if replies is None:
        return [*stops, *sampling]
    sampling.append(("temperature", replies.temperature))
    if replies.temperature > 0:
        sampling += [("top_p", replies.top_p), ("top_k", max(0, replies.top_k)), ("min_p", 0.0)]
    return [*stops, *sampling]


def _template(source: ExportSource) -> OllamaTemplate | None:
    tokenizer = source.tokenizer

    def render(messages: Sequence[Message], has_opening: bool) -> str:
        if has_opening:
            return plain_prompt(tokenizer, messages, ())
        return tokenizer.apply_chat_template(
            list(messages), add_generation_prompt=False, tokenize=False
        )

    begins = tokenizer.bos_token_id is not None
    return ollama_template(
        render,
        [*_TALKS, *(probe.messages for probe in source.probes if not probe.tools)],
        begin=str(tokenizer.bos_token) if begins else "",
        adds_begin=begins and tokenizer.encode("a")[:1] == [tokenizer.bos_token_id],
    )


_NO_TEMPLATE = """\
TEMPLATE is left out: Ollama's own language cannot say this chat template so that all prompts are
those of training. Ollama then takes the nearest of the templates that it knows, or none at all:
look at it with `ollama show --template`, or serve the file with llama.cpp, which reads the right
one."""
_WITH_TEMPLATE = """\
TEMPLATE makes the prompts of training, as far as they have no tools: an agent that calls tools is
served by llama.cpp, which reads the whole chat template from the file."""
_USAGE = """\
With Ollama:

```
ollama create {name} -f {folder}/Modelfile
ollama run {name}
```

{template} The file was verified in llama.cpp, on which Ollama is built, and not in Ollama itself.
"""
