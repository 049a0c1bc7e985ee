"""From the whole configuration that a run saved back to what somebody set in it."""

import copy
from collections.abc import Mapping
from typing import Any

from astuner.config.llm_models import MODEL_KEYS
from astuner.config.reader_choice import READER_TYPE


def what_was_set(saved: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The saved settings without those that the defaults give, which then follow others again.

    So `llm.model`, given anew, is the model of each use that named none of its own.
    """
    return _differing(saved, defaults, "", shared_model=_value(saved, "astuner.llm.model"))


def laid_over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Both, section by section; where they differ, `above` counts."""
    both = copy.deepcopy(dict(below))
    for name, value in above.items():
        under = both.get(name)
        if isinstance(under, Mapping) and isinstance(value, Mapping):
            both[name] = laid_over(under, value)
        else:
            both[name] = value
    return both


def _differing(
    saved: Mapping[str, Any], defaults: Mapping[str, Any], prefix: str, *, shared_model: Any
) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for name, value in saved.items():
        key, default = f"{prefix}{name}", defaults.get(name)
        if isinstance(value, Mapping) and isinstance(default, Mapping):
            inner = _differing(value, default, f"{key}.", shared_model=shared_model)
            if inner:
                kept[name] = inner
        elif key == READER_TYPE:  # which it was, the sections that are left do not tell
            kept[name] = value
        elif name in defaults and value == default:
            continue
        elif not (key in MODEL_KEYS and value == shared_model):
            kept[name] = value
    return kept


def _value(section: Any, key: str) -> Any:
    for name in key.split("."):
        section = section.get(name) if isinstance(section, Mapping) else None
    return section
