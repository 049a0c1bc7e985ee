"""The tokens at which a model's own settings end a reply."""

from transformers import AutoConfig, GenerationConfig, PreTrainedConfig


def end_ids(settings: GenerationConfig | PreTrainedConfig | None) -> tuple[int, ...]:
    """That these settings name: one id, several, or none."""
    ids = getattr(settings, "eos_token_id", None)
    if ids is None:
        return ()
    return (ids,) if isinstance(ids, int) else tuple(ids)


def read_end_ids(path: str) -> tuple[int, ...]:
    """Of the model in a folder, or of that name on the hub, without its weights."""
    try:
        return end_ids(GenerationConfig.from_pretrained(path))
    except OSError:
        return end_ids(AutoConfig.from_pretrained(path))
