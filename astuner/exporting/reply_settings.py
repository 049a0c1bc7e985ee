"""How an exported model is to reply where the caller says nothing: generation_config.json."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from astuner.exporting.format import ExportSource


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplySettings:
    """Of the validation that the run's figures are of."""

    temperature: float
    """0: always the most likely token."""
    top_p: float = 1.0
    top_k: int = -1
    """-1: no bound."""

    @classmethod
    def of_run(cls, settings: Mapping[str, Any]) -> "ReplySettings | None":
        """None where the settings of the run are not known."""
        validation = settings.get("rollout", {}).get("val_kwargs")
        if not validation:
            return None
        is_sampled = bool(validation.get("do_sample"))
        return cls(
            temperature=float(validation.get("temperature", 0.0)) if is_sampled else 0.0,
            top_p=float(validation.get("top_p", 1.0)),
            top_k=int(validation.get("top_k", -1)),
        )


def write_reply_settings(folder: Path, source: ExportSource, replies: ReplySettings | None) -> None:
    """End tokens as in training, sampling as in validation.

    Nothing of the base's own settings stays, such as a repetition penalty: the tuned model was
    sampled and judged without. Where the run is not known, its own sampling does.
    """
    from transformers import GenerationConfig

    tokenizer = source.tokenizer
    ids = list(source.stop_ids)
    settings = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=ids[0] if len(ids) == 1 else ids,
        pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else ids[0],
    )
    for name, value in _sampling(replies).items():
        setattr(settings, name, value)
    settings.save_pretrained(folder)


def _sampling(replies: ReplySettings | None) -> dict[str, Any]:
    if replies is None or replies.temperature == 0:
        return {"do_sample": False}
    sampling: dict[str, Any] = {"do_sample": True, "temperature": replies.temperature}
    sampling["top_p"] = replies.top_p
    sampling["top_k"] = replies.top_k if replies.top_k > 0 else 0
    return sampling
