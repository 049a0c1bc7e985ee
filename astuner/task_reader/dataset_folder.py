"""Rows of a split from a folder of parquet, JSON-lines or JSON files, without any network.

The layouts are those of downloaded hub repositories: `train-00000-of-00001.parquet`,
`test.jsonl`, the same in `data/`, or `train/0000.parquet`.
"""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from astuner.errors import ConfigError, TaskReadError
from astuner.task_reader.json_lines import loads, read_json_lines

_SUFFIXES = (".parquet", ".jsonl", ".json")
"""In order of preference, where a split comes in several formats."""
_NOT_DATA = re.compile(r"(dataset_infos?|dataset_dict|state)\.json")


@contextmanager
def data_libraries() -> Iterator[None]:
    """Around imports of the optional libraries: their absence becomes a ConfigError."""
    try:
        yield
    except ImportError as error:
        raise ConfigError(
            "task_reader.huggingface_dat_repo needs libraries that are not installed: "
            f"{error}; install them with `pip install 'astuner[data]'`"
        ) from error


def read_folder_rows(folder: Path, split: str) -> list[dict[str, Any]]:
    """The rows of `split`: a name, or with slices as `datasets` writes them (`train[:100]`).

    Raises TaskReadError when the folder does not hold the split, naming those that it holds.
    """
    if re.fullmatch(r"[\w.-]+", split):
        return _read_split(folder, split)
    with data_libraries():
        from datasets import ReadInstruction

    rows = {name: _read_split(folder, name) for name in re.findall(r"(?:^|\+)\s*(\w+)", split)}
    try:
        parts = ReadInstruction.from_spec(split).to_absolute(
            {name: len(rows_of_split) for name, rows_of_split in rows.items()}
        )
    except (ValueError, AssertionError) as error:
        raise TaskReadError(
            f"cannot read split {split!r} of {folder}: {error}; write a name or slices of it, "
            "such as train[:100] or train[:10%]+test"
        ) from error
    return [row for part in parts for row in rows[part.splitname][part.from_ : part.to]]


def _read_split(folder: Path, split: str) -> list[dict[str, Any]]:
    files = _split_files(folder, split)
    if not files:
        raise TaskReadError(
            f"split {split!r} is not in {folder}; {_describe(folder)}; change the split or the "
            f"folder (files of a split are named like {split}.jsonl or {split}-00000.parquet)"
        )
    return [row for file in files for row in _read_file(file)]


def _split_files(folder: Path, split: str) -> list[Path]:
    for files in (_data_files(folder), _data_files(folder / "data")):
        exact = [file for file in files if _split_name(file) == split]
        prefixes = tuple(split + mark for mark in "-_.")
        named = exact or [file for file in files if file.name.startswith(prefixes)]
        if named:
            return _one_format(named)
    return _one_format(_data_files(folder / split))


def _one_format(files: list[Path]) -> list[Path]:
    by_suffix = ([file for file in files if file.suffix == suffix] for suffix in _SUFFIXES)
    return next((same for same in by_suffix if same), [])


def _data_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(
        file
        for file in folder.iterdir()
        if file.suffix in _SUFFIXES and file.is_file() and not _NOT_DATA.fullmatch(file.name)
    )


def _split_name(file: Path) -> str:
    """`train` of `train-00000-of-00001.parquet`, `train_0.jsonl` and `train.json`."""
    return re.split(r"[-.]|_(?=\d)", file.name, maxsplit=1)[0]


def _describe(folder: Path) -> str:
    files = [*_data_files(folder), *_data_files(folder / "data")]
    splits = sorted({_split_name(file) for file in files})
    if splits:
        return f"splits found: {', '.join(splits)}"
    subfolders = sorted(path.name for path in folder.iterdir() if path.is_dir())
    found = f"it has the folders {', '.join(subfolders)}" if subfolders else "it has no folders"
    return f"no {', '.join(_SUFFIXES)} file found, {found}"


def _read_file(file: Path) -> Iterable[dict[str, Any]]:
    if file.suffix == ".parquet":
        return _read_parquet(file)
    if file.suffix == ".json" and _is_json_list(file):
        return _read_json_list(file)
    return (line.fields for line in read_json_lines(file))


def _read_parquet(file: Path) -> list[dict[str, Any]]:
    with data_libraries():
        import pyarrow
        from pyarrow import parquet

    try:
        return parquet.read_table(file).to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        raise TaskReadError(
            f"cannot read {file}: {error}; download it again, or use the file that git-lfs pulls"
        ) from error


def _is_json_list(file: Path) -> bool:
    with file.open("rb") as stream:
        return stream.read(1024).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"["


def _read_json_list(file: Path) -> list[dict[str, Any]]:
    try:
        rows = loads(file.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:  # no JSON, no UTF-8, or too large to hold
        raise TaskReadError(f"cannot read {file}: {error}; write a list of objects") from error
    wrong = [row for row in rows if not isinstance(row, dict)]
    if wrong:
        raise TaskReadError(
            f"cannot read {file}: found {wrong[0]!r:.80} in the list; write a list of objects"
        )
    return rows
