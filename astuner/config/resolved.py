"""A configuration in which every value is what it says: no text of it is resolved once more."""

import re
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from astuner.errors import ConfigError

_OPENING = re.compile(r"(\\*)\$\{")


def resolved_config(values: Mapping[str, Any]) -> DictConfig:
    """Resolved values as users' code gets them: read-only, and an unknown key is an error."""
    escaped: dict[str, Any] = {key: literal(value) for key, value in values.items()}
    return OmegaConf.create(escaped, flags={"struct": True, "readonly": True})


def overlaid(config: DictConfig, values: Mapping[str, Any], *, where: str) -> DictConfig:
    """The same with other values for some keys. Raises ConfigError, with `where` these were given,
    for a key that is not there."""
    try:
        merged = OmegaConf.merge(config, {key: literal(value) for key, value in values.items()})
    except OmegaConfBaseException as error:
        raise ConfigError(f"{where}: {str(error).splitlines()[0]}") from error
    assert isinstance(merged, DictConfig)
    OmegaConf.set_readonly(merged, True)
    return merged


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
