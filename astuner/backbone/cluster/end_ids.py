"""The tokens at which a model's own settings end a reply."""

from transformers import AutoConfig, GenerationConfig


def end_ids(path: str) -> list[int]:
    """Of the model in a folder, or of that name on the hub."""
    try:
        ids = GenerationConfig.from_pretrained(path).eos_token_id
    except OSError:
        ids = AutoConfig.from_pretrained(path).eos_token_id
    return [ids] if isinstance(ids, int) else list(ids or ())
