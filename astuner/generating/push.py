"""A generated set as a `datasets` folder, or on the hub."""

import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from astuner.errors import ConfigError
from astuner.task_generation.generated_set import TEST_FILE, TRAIN_FILE, VALIDATION_FILE
from astuner.task_reader.jsonl_dataset_file import read_task_file
from astuner.types import Task

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_SPLITS = {"train": TRAIN_FILE, "validation": VALIDATION_FILE, "test": TEST_FILE}


def is_on_hub(target: str) -> bool:
    """OWNER/NAME is a name on the hub; what begins with a dot, a slash or a tilde, and what has
    another number of slashes, is a folder. So is one that is there."""
    is_path = target.startswith((".", os.sep, "~")) or Path(target).exists()
    return not is_path and _HUB_NAME.fullmatch(target) is not None


def check_target(target: str) -> None:
    """Before anything is paid. Raises ConfigError for a folder with something in it, and where the
    package is missing."""
    _import_datasets()
    if is_on_hub(target):
        return
    folder = Path(target).expanduser()
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ConfigError(
            f"--push {target}: there is something in {folder.absolute()} already; name a new "
            "folder, or OWNER/NAME on the hub"
        )


def push_set(folder: Path, target: str) -> str:
    """All splits of the set in `folder`, with metadata as columns; says where they are now.

    Raises ConfigError where the hub does not take them.
    """
    datasets = _import_datasets()
    datasets.disable_progress_bars()
    splits = {
        split: datasets.Dataset.from_list(rows)
        for split, name in _SPLITS.items()
        if (rows := _rows(folder / name))
    }
    whole = datasets.DatasetDict(splits)
    if not is_on_hub(target):
        path = Path(target).expanduser().absolute()
        whole.save_to_disk(path)
        return f"{path}; datasets.load_from_disk reads it"
    try:
        whole.push_to_hub(target)
    except Exception as error:  # whatever the hub or the network says
        raise ConfigError(
            f"--push {target}: the hub did not take it: {error}; log in by `hf auth login`, or "
            f"name a folder; the set itself is in {folder}"
        ) from error
    return f"https://huggingface.co/datasets/{target}"


def _rows(path: Path) -> list[dict[str, Any]]:
    """Every row with the same columns; what is no plain value, as JSON."""
    if not path.is_file() or not path.stat().st_size:
        return []
    tasks = read_task_file(path)
    names = list(dict.fromkeys(name for task in tasks for name in task.metadata))
    return [_row(task, names) for task in tasks]


def _row(task: Task, names: Iterable[str]) -> dict[str, Any]:
    found: Mapping[str, Any] = task.metadata
    columns = {name: _plain(found.get(name)) for name in names}
    return {"task_id": task.task_id, "main_query": task.main_query, **columns}


def _plain(value: Any) -> Any:
    is_plain = value is None or isinstance(value, str | int | float | bool)
    return value if is_plain else json.dumps(value, ensure_ascii=False)


def _import_datasets() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise ConfigError(
            "--push needs the package datasets; install it by `pip install 'astuner[data]'`"
        ) from error
    return datasets
