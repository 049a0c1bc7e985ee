"""The sources of a mixture as the user writes them, completed from the packaged defaults.

A source says only what differs: `{type: random_dummy}` has a share, every section of a reader, and
no workflow or judge of its own. So it is checked as `task_reader` itself is.
"""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

_SOURCES = "astuner.task_reader.mixture.sources"
_NOT_OF_A_SOURCE = ("type", "mixture")
_OWN_DEFAULTS: Mapping[str, Any] = {"share": 1.0, "workflow": None, "judge": None}


def complete_sources(section: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Fill the sources of the resolved `astuner:` in place; what is no mapping stays as it is.

    `defaults` are those of `task_reader`.
    """
    reader = section.get("task_reader")
    mixture = reader.get("mixture") if isinstance(reader, dict) else None
    sources = mixture.get("sources") if isinstance(mixture, dict) else None
    if not isinstance(sources, dict):
        return
    sections = {key: value for key, value in defaults.items() if key not in _NOT_OF_A_SOURCE}
    for name, written in sources.items():
        if isinstance(written, dict):
            sources[name] = merged({**sections, **_OWN_DEFAULTS}, written)


def split_source_key(key: str) -> tuple[str, str] | None:
    """A key below a source as the key of the source and the rest; None for any other key."""
    if not key.startswith(f"{_SOURCES}."):
        return None
    name, _, rest = key.removeprefix(f"{_SOURCES}.").partition(".")
    return (f"{_SOURCES}.{name}", rest) if rest else None


def merged(defaults: Mapping[str, Any], written: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of the defaults with what was written over them."""
    whole = deepcopy(dict(defaults))
    for key, value in written.items():
        is_section = isinstance(whole.get(key), dict)
        if is_section and value is None:
            continue  # every key of the section is commented out
        is_merged = is_section and isinstance(value, dict)
        whole[key] = merged(whole[key], value) if is_merged else value
    return whole
