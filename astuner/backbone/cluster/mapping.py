"""From our settings to those of another engine: one line each, and no line twice.

A line that the user wrote in the engine's own section wins, unless the setting that it stands for
was written too and says something else.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from astuner.config.sections.model import ModelSettings
from astuner.config.source import flatten
from astuner.errors import ConfigError

NEEDS_FLASH_ATTENTION = (
    "trainer_common.ulysses_sequence_parallel_size: only the package flash-attn splits sequences "
    "over GPUs; install it (pip install flash-attn --no-build-isolation), or leave it at 1"
)
NEEDS_FREE_PORT = (
    "gateway.port: every process that runs episodes on a cluster has a gateway of its own, and two "
    "cannot listen on one port; leave it at 0"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One setting of the engine and where its value comes from."""

    key: str
    """Dotted, as the engine names it."""
    value: Any
    sources: tuple[str, ...] = ()
    """The settings, without "astuner.", that the value is made of; none for what is always so."""


def line(key: str, value: Any, *sources: str) -> Line:
    return Line(key=key, value=value, sources=sources)


def merge(
    lines: Iterable[Line], own: Mapping[str, Any], *, section: str, explicit: frozenset[str]
) -> dict[str, Any]:
    """The engine's settings by dotted key: our lines, with those of its `own` section over them.

    `explicit` are the keys that the user wrote. Raises ConfigError that lists every key of the
    section which contradicts one of `astuner`.
    """
    written = {key: value for key, value in flatten(own).items() if f"{section}.{key}" in explicit}
    merged = dict(flatten(own))
    problems = []
    for our in lines:
        if our.key in written:
            problems += _contradictions(our, written[our.key], section, explicit)
        elif not any(key.startswith(f"{our.key}.") for key in written):
            merged[our.key] = our.value
    if problems:
        raise ConfigError("settings contradict each other:" + "".join(f"\n  {p}" for p in problems))
    return merged


def _contradictions(our: Line, value: Any, section: str, explicit: frozenset[str]) -> list[str]:
    if value == our.value:
        return []
    written = [f"astuner.{source}" for source in our.sources if f"astuner.{source}" in explicit]
    if not written:
        return []
    return [
        f"{section}.{our.key} is {value!r}, but {' and '.join(written)} makes it {our.value!r}; "
        "keep one of them"
    ]


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys as sections of sections."""
    tree: dict[str, Any] = {}
    for key, value in flat.items():
        *parents, name = key.split(".")
        section = tree
        for parent in parents:
            section = section.setdefault(parent, {})
        section[name] = value
    return tree


def compute_dtype(model: ModelSettings) -> str:
    """On a cluster's GPUs, `auto` is bfloat16."""
    return "bfloat16" if model.dtype == "auto" else model.dtype


def mixed_precision(model: ModelSettings) -> dict[str, str]:
    """FSDP's: float32 master weights and gradients; passes in the type of the settings."""
    computed = "fp32" if model.dtype == "float32" else "bf16"
    return {"param_dtype": computed, "reduce_dtype": "fp32", "buffer_dtype": "fp32"}
