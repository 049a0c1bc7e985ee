"""A configuration in which every value is what it says: no text of it is resolved once more."""

import re
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

_OPENING = re.compile(r"(\\*)\$\{")


def resolved_config(values: Mapping[str, Any]) -> DictConfig:
    """Resolved values as users' code gets them: read-only, and an unknown key is an error."""
    escaped: dict[str, Any] = {key: literal(value) for key, value in values.items()}
    return OmegaConf.create(escaped, flags={"struct": True, "readonly": True})


def literal(value: Any) -> Any:
    """The value with its texts escaped, so that OmegaConf gives them back as they are here.

    A prompt may hold `${name}` of another language. OmegaConf reads `\\${` as that text, and each
    pair of backslashes before it as one.
    """
    if isinstance(value, str):
        return _OPENING.sub(lambda found: rf"{found[1] * 2}\${{", value)
    if isinstance(value, Mapping):
        return {key: literal(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [literal(inner) for inner in value]
    return value
