"""Where generated sets lie: in folders that were named, and where runs took their tasks from."""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from astuner.config.generated_sets import USUAL_DIR
from astuner.errors import NotFoundError, UnreadableError
from astuner.logview.reading.run_reader import RunReader
from astuner.task_generation.generated_set import (
    CARD_FILE,
    FINGERPRINT_FILE,
    LEDGER_FILE,
    TRAIN_FILE,
)

_READER_TYPE = re.compile(
    r"(?P<section>astuner\.task_reader(?:\.mixture\.sources\.(?P<source>[^.]+))?)\.type"
)
_GENERATED = "data_generation"
_MAY_NAME_ONE = re.compile(r"""\btype["']?:\s*["']?data_generation\b""")


def is_set(folder: Path) -> bool:
    """Whether a folder is a generated set, or one that is being made."""
    return _has_any(folder, CARD_FILE, FINGERPRINT_FILE) and _has_any(
        folder, LEDGER_FILE, TRAIN_FILE
    )


def _has_any(folder: Path, *names: str) -> bool:
    return any(os.path.isfile(folder / name) for name in names)


def folders_named_by(run: RunReader) -> tuple[tuple[Path, ...], ...]:
    """For each set that the newest configuration of a run names, where it may lie: the first of
    these that is a set is it."""
    try:
        # Reading YAML takes long, and this is asked of every run.
        if not _MAY_NAME_ONE.search(run.config_text()):
            return ()
        settings = run.config()
    except (NotFoundError, UnreadableError):
        return ()
    return tuple(_folders_of(run, named) for named in _named_sets(settings))


def _folders_of(run: RunReader, named: "_NamedSet") -> tuple[Path, ...]:
    """A relative one counts from where the run was started, which is above launcher_record."""
    usual = Path(USUAL_DIR, run.root.parent.name, named.source)
    folder = usual if named.output_dir is None else Path(named.output_dir).expanduser()
    starts = (*run.root.parents[2:3], Path.cwd())
    return tuple(Path(os.path.realpath(start / folder)) for start in starts)


@dataclass(frozen=True, slots=True, kw_only=True)
class _NamedSet:
    """As a configuration names it."""

    source: str
    """Of a mixture; empty without one."""
    output_dir: str | None


def _named_sets(settings: Mapping[str, Any]) -> Iterator[_NamedSet]:
    reader = settings.get("astuner.task_reader.type")
    for key, value in settings.items():
        match = _READER_TYPE.fullmatch(key)
        if match is None or value != _GENERATED or (match["source"] and reader != "mixture"):
            continue
        named = settings.get(f"{match['section']}.{_GENERATED}.output_dir")
        yield _NamedSet(
            source=match["source"] or "",
            output_dir=named if isinstance(named, str) and "\0" not in named else None,
        )
