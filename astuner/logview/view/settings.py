"""Two resolved configurations beside each other."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingDifference:
    """A key whose value is not the same on both sides."""

    key: str
    before: str | None
    """None where the key is not there."""
    after: str | None


def setting_differences(
    before: Mapping[str, Any], after: Mapping[str, Any]
) -> list[SettingDifference]:
    """Of two flat mappings of dotted keys, in the order of the keys."""
    return [
        SettingDifference(key=key, before=_said(before, key), after=_said(after, key))
        for key in sorted(before.keys() | after.keys())
        if _said(before, key) != _said(after, key)
    ]


def _said(settings: Mapping[str, Any], key: str) -> str | None:
    """As YAML has it: null, true, text without quotes."""
    if key not in settings:
        return None
    value = settings[key]
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else str(value)
