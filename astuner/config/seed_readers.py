"""What the user wrote of a reader of seeds, completed from the packaged defaults of that reader.

`data_generation.query_reader` has the sections of `task_reader`, each null until it is filled; who
fills one says only what differs.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from astuner.config.mixed_sources import merged


def complete_seed_readers(section: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Fill those of the resolved `astuner:` in place; what is no mapping stays as it is.

    `defaults` are those of `task_reader`. The sources of a mixture have to be complete.
    """
    for reader in _readers(section.get("task_reader")):
        generation = reader.get("data_generation")
        seeds = generation.get("query_reader") if isinstance(generation, dict) else None
        if not isinstance(seeds, dict):
            continue
        for name, written in seeds.items():
            if name != "jsonl_dataset_file" and isinstance(written, dict) and name in defaults:
                seeds[name] = merged(defaults[name], written)


def _readers(reader: Any) -> Iterator[dict[str, Any]]:
    """That of all tasks, and those of a mixture."""
    if not isinstance(reader, dict):
        return
    yield reader
    mixture = reader.get("mixture")
    sources = mixture.get("sources") if isinstance(mixture, dict) else None
    if isinstance(sources, dict):
        yield from (source for source in sources.values() if isinstance(source, dict))
