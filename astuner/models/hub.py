"""A model of the Hugging Face hub in one revision."""

from pathlib import Path

from astuner.errors import ConfigError

_FILES = ("*.json", "*.jinja", "*.safetensors", "*.model", "*.txt")
"""Weights, configuration and tokenizer; not the same weights in other formats."""


def fetch_revision(name: str, revision: str) -> Path:
    """Bring the revision into the hub's cache on this machine; returns its folder there.

    What the cache has is not asked for again. Raises ConfigError where there is no such revision, or
    the hub cannot be reached.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import httpx

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(_FILES)))
    except (httpx.HTTPError, OSError, ValueError) as error:
        raise ConfigError(
            f"model.revision: the hub gives no {name} in revision {revision!r}: {error}; correct the "
            "name or the revision, or where there is no network give a folder as model.path"
        ) from error
