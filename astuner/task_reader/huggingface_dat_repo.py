"""Tasks from a data set of the Hugging Face hub, or from a local folder with such data.

`dataset_path` is read by these rules, in this order:

1. `hf://datasets/owner/name[/config]` is on the hub.
2. A folder that exists is local, and nothing is asked of the network.
3. `owner/name/config` is a hub repository with its config (subset).
4. `gsm8k`, `gsm8k/main`: names from before the hub had owners, by the table below.
5. `a/b` is the repository `b` of owner `a`; if there is none, the repository `a` with config `b`.
"""

import datetime
import decimal
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from astuner.errors import ConfigError, TaskReadError
from astuner.task_reader.dataset_folder import data_libraries, read_folder_rows
from astuner.task_reader.local_path import find_path, places
from astuner.types import Task

_SECTION = "task_reader.huggingface_dat_repo"
_HUB_PREFIX = "hf://datasets/"
_NAMES_WITHOUT_OWNER = {"gsm8k": "openai/gsm8k"}

LoadDataset = Callable[..., Iterable[Mapping[str, Any]]]
"""`datasets.load_dataset`, called with path, config, split, and a revision where one is set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Which columns of a row hold what."""

    query: str = "question"
    answer: str | None = "answer"
    """Copied to `metadata["answer"]`; None: the rows have no reference answer."""
    task_id: str | None = None
    """None: the number of the row, from 0, is the id."""


class HuggingfaceDatRepoReader:
    """Reads `task_reader.type: huggingface_dat_repo`. The whole row becomes a task's metadata."""

    def __init__(
        self,
        *,
        dataset_path: str,
        training_split: str,
        validation_split: str | None = None,
        test_split: str | None = None,
        revision: str | None = None,
        columns: Columns | None = None,
        search_dirs: Sequence[Path] = (),
        load_dataset: LoadDataset | None = None,
    ) -> None:
        """`load_dataset` is that of the `datasets` library unless given."""
        self._dataset_path = dataset_path
        self._training_split = training_split
        self._validation_split = validation_split
        self._test_split = test_split
        self._revision = revision
        self._columns = columns or Columns()
        self._search_dirs = search_dirs
        self._load_dataset = load_dataset

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any], search_dirs: Sequence[Path]) -> Self:
        for key in ("dataset_path", "training_split"):
            if not settings.get(key):
                raise ConfigError(
                    f"{_SECTION}.{key} is not set; found {dict(settings)!r:.200}; give a hub name "
                    "or a folder, and the name of the split to train on"
                )
        return cls(
            dataset_path=settings["dataset_path"],
            training_split=settings["training_split"],
            validation_split=settings.get("validation_split"),
            test_split=settings.get("test_split"),
            revision=settings.get("revision"),
            columns=Columns(
                query=settings.get("query_column", "question"),
                answer=settings.get("answer_column", "answer"),
                task_id=settings.get("id_column"),
            ),
            search_dirs=search_dirs,
        )

    def get_training_tasks(self) -> list[Task]:
        return self._read(self._training_split)

    def get_validation_tasks(self) -> list[Task]:
        return self._read(self._validation_split) if self._validation_split else []

    def get_test_tasks(self) -> list[Task]:
        return self._read(self._test_split) if self._test_split else []

    def _read(self, split: str) -> list[Task]:
        folder = self._find_folder()
        if folder is not None and self._revision is not None:
            raise ConfigError(
                f"{_SECTION}.revision: {folder} is a folder and has no revisions, found "
                f"{self._revision!r}; set it to null, or name the data set as hf://datasets/owner/name"
            )
        if folder is not None:
            rows: Iterable[Mapping[str, Any]] = read_folder_rows(folder, split)
        else:
            rows = self._load_from_hub(split)
        return rows_to_tasks(
            rows, columns=self._columns, source=f"{folder or self._dataset_path}, split {split}"
        )

    def _find_folder(self) -> Path | None:
        path = self._dataset_path
        if path.startswith(_HUB_PREFIX):
            return None
        found = find_path(path, self._search_dirs)
        if found is None and path.startswith(("/", "./", "../", "~")):
            tried = ", ".join(str(place) for place in places(path, self._search_dirs))
            raise ConfigError(
                f"{_SECTION}.dataset_path: no such folder; looked for {tried}; correct the path, "
                "or give the name of a data set on the hub"
            )
        if found is not None and not found.is_dir():
            raise ConfigError(
                f"{_SECTION}.dataset_path: {found} is a file; give the folder that holds it, or "
                "read it with task_reader.type jsonl_dataset_file"
            )
        return found

    def _load_from_hub(self, split: str) -> Iterable[Mapping[str, Any]]:
        with data_libraries():
            from datasets.exceptions import DatasetNotFoundError, DatasetsError

        load_dataset = self._load_dataset or _import_load_dataset()
        options = {"split": split} | ({"revision": self._revision} if self._revision else {})
        missing: DatasetNotFoundError | None = None
        for repository, config in hub_names(self._dataset_path):
            try:
                return load_dataset(_HUB_PREFIX + repository, config, **options)
            except DatasetNotFoundError as error:
                missing = missing or error
            except ConnectionError as error:
                raise TaskReadError(self._unreachable(repository, error)) from error
            # Bad config, split or file: the library uses all of these.
            except (DatasetsError, OSError, RuntimeError, ValueError) as error:
                raise TaskReadError(
                    f"cannot read split {split!r} of the hub data set {repository} (config "
                    f"{config}): {error}; correct {_SECTION}, the config stands behind the name: "
                    f"{repository}/CONFIG"
                ) from error
        raise TaskReadError(
            f"{_SECTION}.dataset_path {self._dataset_path!r} is no folder here and no data set on "
            f"the hub: {missing}; correct the name, or log in with `hf auth login` if it is private"
        ) from missing

    def _unreachable(self, repository: str, error: Exception) -> str:
        name = repository.rpartition("/")[2]
        return (
            f"cannot read {_SECTION}.dataset_path {self._dataset_path!r} from the hub: {error}; "
            f"where there is network, run `hf download {repository} --repo-type dataset "
            f"--local-dir {name}`, then give the folder; or set HF_ENDPOINT to a mirror"
        )


def _import_load_dataset() -> LoadDataset:
    from datasets import load_dataset

    return load_dataset


def hub_names(dataset_path: str) -> list[tuple[str, str | None]]:
    """The pairs of repository and config that a hub name may mean, the likeliest first."""
    parts = dataset_path.removeprefix(_HUB_PREFIX).split("/")
    known = _NAMES_WITHOUT_OWNER.get(parts[0])
    match parts:
        case [name]:
            return [(known or name, None)]
        case [_, config] if known:
            return [(known, config)]
        case [first, second]:
            return [(f"{first}/{second}", None), (first, second)]
        case [owner, name, config]:
            return [(f"{owner}/{name}", config)]
    raise ConfigError(
        f"{_SECTION}.dataset_path {dataset_path!r} is no folder here, and too long for a hub name; "
        "write a folder, owner/name or owner/name/config"
    )


def rows_to_tasks(
    rows: Iterable[Mapping[str, Any]], *, columns: Columns, source: str
) -> list[Task]:
    """One task per row, in order.

    Raises TaskReadError, naming source and row, for a missing column, an empty split, an id that
    occurs twice, and a value that JSON cannot hold.
    """
    tasks: dict[str, Task] = {}
    for number, row in enumerate(rows):
        task = _to_task(row, columns, number=number, place=f"{source}, row {number}")
        if task.task_id in tasks:
            raise TaskReadError(
                f"{source}, row {number}: the id {task.task_id!r} of column {columns.task_id!r} "
                "occurs twice; choose another id_column, or null for the row's number"
            )
        tasks[task.task_id] = task
    if not tasks:
        raise TaskReadError(f"{source}: there are no rows; choose another split")
    return list(tasks.values())


def _to_task(row: Mapping[str, Any], columns: Columns, *, number: int, place: str) -> Task:
    query = _cell(row, columns.query, key="query_column", place=place)
    if not isinstance(query, str):
        raise TaskReadError(
            f"{place}: the question in column {columns.query!r} is {query!r:.80} of type "
            f"{type(query).__name__}, not text; choose another query_column"
        )
    metadata = {
        name: _json_value(value, f"{place}, column {name!r}") for name, value in row.items()
    }
    if columns.answer is not None:
        _cell(row, columns.answer, key="answer_column", place=place)
        metadata["answer"] = metadata[columns.answer]
    task_id = number
    if columns.task_id is not None:
        task_id = _cell(row, columns.task_id, key="id_column", place=place)
    return Task(main_query=query, task_id=str(task_id), metadata=metadata)


def _cell(row: Mapping[str, Any], column: str, *, key: str, place: str) -> object:
    if _is_missing(row.get(column)):
        what = "is empty" if column in row else "is missing"
        raise TaskReadError(
            f"{place}: column {column!r} {what}; columns found: {', '.join(row)}; set "
            f"{_SECTION}.{key}"
        )
    return row[column]


def _is_missing(value: object) -> bool:
    """NaN is what pandas writes for it, in columns of any type."""
    return value is None or (isinstance(value, float | decimal.Decimal) and value != value)


def _json_value(value: object, place: str) -> object:
    if _is_missing(value):
        return None
    if isinstance(value, (str, int, float)):
        return value
    if isinstance(value, Mapping):
        return {str(key): _json_value(item, place) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json_value(item, place) for item in value]
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        return str(value)
    raise TaskReadError(
        f"{place}: found a {type(value).__name__}, which JSON cannot hold; use a copy of the data "
        "without that column"
    )
