"""Where tasks come from: every reader, and what it says about a source that it cannot read."""

import datetime
import decimal
import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from astuner.errors import ConfigError, TaskReadError
from astuner.task_reader import READERS, make_task_reader
from astuner.task_reader.huggingface_dat_repo import (
    Columns,
    HuggingfaceDatRepoReader,
    hub_names,
    rows_to_tasks,
)
from astuner.task_reader.jsonl_dataset_file import read_task_file
from tests.old_env_server import old_env_server
from tests.remote_servers import OpenEnvStandIn, OrsStandIn, served
from tests.task_folders import write_task
from tests.test_env_client import section
from tests.test_openenv import SETTINGS as OPENENV
from tests.test_ors import SETTINGS as ORS


def write_lines(path: Path, *lines: object) -> Path:
    text = "".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def questions(split: str, count: int) -> list[dict[str, Any]]:
    return [
        {"question": f"{split} {number}?", "answer": f"so\n#### {number}"}
        for number in range(count)
    ]


# The table of readers


def test_every_reader_is_made_by_its_type(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "tasks.jsonl", {"main_query": "a"})
    row = {"question": "a", "main_query": "a", "answer": "b"}
    write_lines(tmp_path / "data" / "train.jsonl", row)
    settings = {
        "jsonl_dataset_file": {"training": {"file_path": str(file)}, "validation": None},
        "huggingface_dat_repo": {"dataset_path": str(tmp_path), "training_split": "train"},
        "random_dummy": {"num_tasks": 1},
        "harbor": {"path": str(tmp_path / "task"), "validation_path": None},
        "reasoning_gym": {"datasets": ["chain_sum"], "num_tasks": 1},
        "data_generation": {"output_dir": str(tmp_path / "data")},
        "tracing": {"train_output_path": str(file)},
        "mixture": {"sources": {"a": {"type": "random_dummy", "random_dummy": {"num_tasks": 1}}}},
    }
    write_task(tmp_path / "task")
    openenv, ors = OpenEnvStandIn(lambda message: None), OrsStandIn(num_tasks=1)
    with (
        served(openenv.app) as openenv_url,
        served(ors.app) as ors_url,
        old_env_server() as env_service,
    ):
        settings["openenv"] = {**OPENENV, "url": openenv_url, "num_tasks": 1}
        settings["ors"] = {**ORS, "url": ors_url}
        settings["env_service"] = {**section(env_service.url), "training_split": "dev"}
        assert set(settings) == set(READERS)
        for reader_type, values in settings.items():
            assert len(make_task_reader(reader_type, values).get_training_tasks()) == 1


def test_an_unknown_type_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'jsonl_dataset_file'.*available are"):
        make_task_reader("json_dataset_file", {})


def test_the_readers_import_no_data_library() -> None:
    code = (
        "import sys, astuner.task_reader; "
        "print({'datasets', 'pyarrow', 'pandas', 'torch', 'huggingface_hub'} & set(sys.modules))"
    )
    root = Path(__file__).parents[1]
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "set()"


# random_dummy


def test_dummy_tasks_come_in_a_fixed_mixed_order() -> None:
    reader = make_task_reader("random_dummy", {})
    tasks = reader.get_training_tasks()
    assert tasks == reader.get_validation_tasks()
    numbers = [task.metadata["random_number"] for task in tasks]
    assert numbers[:3] == [776, 507, 895]
    assert sorted(numbers) == list(range(1000))
    assert tasks[0].main_query == "[dummy task @ 776]"
    assert tasks[0].task_id == "776"


def test_no_dummy_tasks_at_all_are_refused() -> None:
    with pytest.raises(ConfigError, match="num_tasks is 0"):
        make_task_reader("random_dummy", {"num_tasks": 0})


# jsonl_dataset_file


def test_a_full_line_becomes_its_task(tmp_path: Path) -> None:
    line = {
        "main_query": "What is 2+3?",
        "init_messages": [{"role": "system", "content": "Be brief."}],
        "task_id": "sum-1",
        "env_type": "calculator",
        "metadata": {"answer": "5"},
    }
    [task] = read_task_file(write_lines(tmp_path / "tasks.jsonl", line))
    assert task.model_dump() == line


def test_what_a_line_leaves_out_is_filled_in(tmp_path: Path) -> None:
    path = write_lines(
        tmp_path / "tasks.jsonl",
        {"main_query": "a", "answer": "5", "level": 2},
        "\n",
        {"main_query": "b", "metadata": None, "task_id": None},
        {"main_query": "c", "task_id": 17, "answer": "6", "metadata": {"answer": "7", "x": 1}},
    )
    first, second, third = read_task_file(path)
    assert (first.task_id, first.env_type, first.init_messages) == ("1", "no_env", [])
    assert first.metadata == {"answer": "5", "level": 2}
    assert (second.task_id, second.metadata) == ("3", {})
    assert (third.task_id, third.metadata) == ("17", {"answer": "7", "x": 1})


def test_a_column_called_source_is_metadata_as_any_other(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "tasks.jsonl", {"main_query": "a", "source": "MATH", "level": 2})
    (task,) = read_task_file(path)
    assert (task.source, task.metadata) == ("", {"source": "MATH", "level": 2})


def test_a_byte_order_mark_and_other_line_ends_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "tasks.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"main_query": "a"}\r\n{"main_query": "\xc3\xa9"}')
    assert [task.main_query for task in read_task_file(path)] == ["a", "é"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"main_query": "a"}\n{"question": "b", "answer": "c"}\n', r":2: field 'main_query' is "),
        (b'{"question": "b", "answer": "c"}\n', r"found \['answer', 'question'\]"),
        (b'{"main_query": null}\n', r":1: field 'main_query' is missing"),
        (b'{"main_query": "a"}\n{"main_query": "b",}\n', r":2:20: not JSON: .*found '\{\"main_q"),
        (b'{"main_query": "a\n', r":1:16: not JSON: Unterminated string"),
        (b'["a"]\n', r":1: not a JSON object; found"),
        (b'{"main_query": ' + b"7" * 5000 + b"}", r":1: cannot be read: Exceeds the limit"),
        (b'{"main_query": ' + b"[" * 99999, r":1: cannot be read: .*recursion"),
        (b'{"main_query": "\xff"}\n', r":1:17: not UTF-8 text; found byte 0xff"),
        (b'{"main_query": 5}\n', r":1: field 'main_query' .* string; found 5 of type int"),
        (b'{"main_query": "a", "metadata": "b"}\n', r"'metadata' .* found 'b' of type str"),
        (b'{"main_query": "a", "init_messages": ["b"]}', r"'init_messages.0' .* found 'b'"),
        (b'{"main_query": "a", "task_id": 1.5}', r"'task_id' .* found 1.5 of type float"),
        (
            b'{"main_query": "a", "task_id": "x"}\n' * 2,
            r":2: task_id 'x' is already that of line 1",
        ),
        (
            b'{"main_query": "a", "task_id": 2}\n{"main_query": "b"}\n',
            r":2: task_id '2' is already",
        ),
        (b"", r"holds no task"),
        (b"\n \n", r"holds no task"),
    ],
)
def test_a_bad_file_is_named_with_line_and_content(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "tasks.jsonl"
    path.write_bytes(content)
    with pytest.raises(TaskReadError, match=message) as caught:
        read_task_file(path)
    assert str(path) in str(caught.value)


def test_a_relative_path_is_looked_for_in_every_search_folder(tmp_path: Path) -> None:
    write_lines(tmp_path / "yaml" / "data" / "train.jsonl", {"main_query": "from the YAML's"})
    settings = {"training": {"file_path": "data/train.jsonl"}, "validation": {"file_path": None}}
    search_dirs = (tmp_path / "current", tmp_path / "yaml")
    reader = make_task_reader("jsonl_dataset_file", settings, search_dirs)
    assert [task.main_query for task in reader.get_training_tasks()] == ["from the YAML's"]
    assert reader.get_validation_tasks() == []
    write_lines(tmp_path / "current" / "data" / "train.jsonl", {"main_query": "from here"})
    assert [task.main_query for task in reader.get_training_tasks()] == ["from here"]


def test_a_file_that_is_not_there_names_every_place(tmp_path: Path) -> None:
    settings = {"training": {"file_path": "gone.jsonl"}}
    reader = make_task_reader("jsonl_dataset_file", settings, (tmp_path / "a", tmp_path / "b"))
    with pytest.raises(ConfigError, match=r"training\.file_path: no such file") as caught:
        reader.get_training_tasks()
    assert str(tmp_path / "a" / "gone.jsonl") in str(caught.value)
    assert str(tmp_path / "b" / "gone.jsonl") in str(caught.value)


def test_a_folder_in_place_of_a_file_is_named(tmp_path: Path) -> None:
    reader = make_task_reader("jsonl_dataset_file", {"training": {"file_path": "."}}, [tmp_path])
    with pytest.raises(ConfigError, match=r"training\.file_path: .* is a folder; name a file"):
        reader.get_training_tasks()


@pytest.mark.parametrize("settings", [{}, {"training": None}, {"training": {"file_path": None}}])
def test_a_missing_training_file_is_a_config_error(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"training\.file_path is not set"):
        make_task_reader("jsonl_dataset_file", settings)


# huggingface_dat_repo, local


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def read_local(path: Path | str, *search_dirs: Path, **settings: object) -> list[Any]:
    section = {"dataset_path": str(path), "training_split": "train", **settings}
    return make_task_reader("huggingface_dat_repo", section, search_dirs).get_training_tasks()


LAYOUTS: dict[str, Callable[[Path], object]] = {
    "parquet of the hub": lambda folder: [
        write_parquet(folder / "train-00000-of-00002.parquet", questions("train", 3)[:2]),
        write_parquet(folder / "train-00001-of-00002.parquet", questions("train", 3)[2:]),
        write_parquet(folder / "test-00000-of-00001.parquet", questions("test", 5)),
        write_lines(folder / "dataset_infos.json", "{}"),
    ],
    "data folder": lambda folder: write_parquet(
        folder / "data" / "train-00000-of-00001.parquet", questions("train", 3)
    ),
    "folder per split": lambda folder: write_parquet(
        folder / "train" / "0000.parquet", questions("train", 3)
    ),
    "json lines": lambda folder: [
        write_lines(folder / "train.jsonl", *questions("train", 3)),
        write_lines(folder / "train_extra.jsonl", *questions("other", 3)),
    ],
    "json list": lambda folder: write_lines(
        folder / "train.json", json.dumps(questions("train", 3), indent=1)
    ),
    "json with lines": lambda folder: write_lines(folder / "train.json", *questions("train", 3)),
    "two formats": lambda folder: [
        write_lines(folder / "train.jsonl", *questions("train", 3)),
        write_parquet(folder / "train.parquet", questions("train", 3)),
    ],
    "parts": lambda folder: [
        write_lines(folder / "train_part_a.jsonl", *questions("train", 3)[:1]),
        write_lines(folder / "train_part_b.jsonl", *questions("train", 3)[1:]),
    ],
}


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_local_folder_is_read_in_every_usual_layout(tmp_path: Path, layout: str) -> None:
    LAYOUTS[layout](tmp_path / "gsm8k" / "main")
    tasks = read_local("gsm8k/main", tmp_path)
    assert [task.main_query for task in tasks] == ["train 0?", "train 1?", "train 2?"]
    assert [task.task_id for task in tasks] == ["0", "1", "2"]
    assert tasks[2].metadata == {"question": "train 2?", "answer": "so\n#### 2"}


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(
    ("split", "numbers"),
    [
        ("train[:2]", [0, 1]),
        ("train[-1:]", [9]),
        ("train[50%:80%]", [5, 6, 7]),
        ("train[:1]+test[:2]", [0, 0, 1]),
        ("train[:1000]", list(range(10))),
    ],
)
def test_a_split_can_be_sliced(tmp_path: Path, split: str, numbers: list[int]) -> None:
    write_lines(tmp_path / "train.jsonl", *questions("train", 10))
    write_lines(tmp_path / "test.jsonl", *questions("test", 10))
    tasks = read_local(tmp_path, training_split=split)
    assert [task.metadata["answer"] for task in tasks] == [f"so\n#### {n}" for n in numbers]
    assert [task.task_id for task in tasks] == [str(row) for row in range(len(numbers))]


def test_validation_reads_its_own_split_or_nothing(tmp_path: Path) -> None:
    write_lines(tmp_path / "train.jsonl", *questions("train", 1))
    write_lines(tmp_path / "test.jsonl", *questions("test", 2))
    section = {"dataset_path": str(tmp_path), "training_split": "train", "validation_split": "test"}
    reader = make_task_reader("huggingface_dat_repo", section)
    assert len(reader.get_validation_tasks()) == 2
    without = make_task_reader("huggingface_dat_repo", {**section, "validation_split": None})
    assert without.get_validation_tasks() == []


def test_columns_are_chosen_by_the_settings(tmp_path: Path) -> None:
    rows = [{"problem": "p", "solution": r"\boxed{5}", "unique_id": "a/1"}]
    write_lines(tmp_path / "train.jsonl", *rows)
    columns = {"query_column": "problem", "answer_column": "solution", "id_column": "unique_id"}
    [task] = read_local(tmp_path, **columns)
    assert (task.main_query, task.task_id) == ("p", "a/1")
    assert task.metadata == {**rows[0], "answer": r"\boxed{5}"}
    [bare] = read_local(tmp_path, query_column="problem", answer_column=None)
    assert bare.metadata == rows[0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"training_split": "dev"}, r"split 'dev' is not in .*; splits found: test, train;"),
        ({"training_split": "train[:"}, r"cannot read split 'train\[:'.*train\[:100\]"),
        ({"training_split": "train[:0]"}, r"split train\[:0\]: there are no rows"),
        (
            {"query_column": "problem"},
            r"'problem' is missing; columns found: question, answer; set",
        ),
        ({"answer_column": "solution"}, r"'solution' is missing; .*answer_column"),
        ({"id_column": "id"}, r"row 0: column 'id' is missing.*id_column"),
        ({"id_column": "answer"}, r"row 1: the id 'same' of column 'answer' occurs twice"),
    ],
)
def test_a_split_or_column_that_is_not_there_names_those_that_are(
    tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    write_lines(tmp_path / "train.jsonl", *[{"question": "a", "answer": "same"}] * 2)
    write_lines(tmp_path / "test.jsonl", {"question": "a", "answer": "b"})
    with pytest.raises(TaskReadError, match=message):
        read_local(tmp_path, **settings)


def test_a_folder_of_configs_names_them(tmp_path: Path) -> None:
    write_lines(tmp_path / "main" / "train.jsonl", *questions("train", 1))
    (tmp_path / "socratic").mkdir()
    with pytest.raises(TaskReadError, match="file found, it has the folders main, socratic"):
        read_local(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train.parquet", "version https://git-lfs.github.com/spec/v1", "cannot read .*git-lfs"),
        ("train.json", "[1, 2]", "cannot read .*: found 1 in the list"),
        ("train.json", "[", "cannot read .*: Expecting value"),
        ("train.json", "[" + "7" * 5000 + "]", "cannot read .*: Exceeds the limit"),
        ("train.json", "[" * 99999, "cannot read .*recursion"),
        ("train.jsonl", "[" * 99999, "train.jsonl:1: cannot be read: .*recursion"),
        ("train.jsonl", "{]", r"train.jsonl:1:2: not JSON"),
        ("train.jsonl", "", "there are no rows"),
        (
            "train.jsonl",
            '{"question": 5, "answer": "b"}',
            "row 0: the question .* is 5 of type int",
        ),
        ("train.jsonl", '{"question": "a", "answer": null}', "column 'answer' is empty"),
    ],
)
def test_a_broken_data_file_is_named(tmp_path: Path, name: str, content: str, message: str) -> None:
    write_lines(tmp_path / name, content)
    with pytest.raises(TaskReadError, match=message):
        read_local(tmp_path)


@pytest.mark.parametrize("path", ["./gone", "/gone/data", "~/gone-data"])
def test_a_path_that_is_no_folder_is_not_looked_for_on_the_hub(tmp_path: Path, path: str) -> None:
    with pytest.raises(ConfigError, match="no such folder; looked for"):
        read_local(path, tmp_path)


def test_a_file_in_place_of_a_folder_is_a_config_error(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "train.jsonl", {"question": "a"})
    with pytest.raises(ConfigError, match="is a file; give the folder"):
        read_local(file)


@pytest.mark.parametrize("missing", ["dataset_path", "training_split"])
def test_a_data_set_or_split_that_is_not_set_is_a_config_error(missing: str) -> None:
    settings = {"dataset_path": "gsm8k/main", "training_split": "train", missing: None}
    with pytest.raises(ConfigError, match=f"{missing} is not set"):
        make_task_reader("huggingface_dat_repo", settings)


def test_cells_become_values_that_json_can_hold() -> None:
    row = {
        "question": "a",
        "answer": decimal.Decimal("1.50"),
        "day": datetime.date(2025, 3, 1),
        "tags": ("x", {"n": None}),
    }
    [task] = rows_to_tasks([row], columns=Columns(), source="test")
    assert task.metadata == {
        "question": "a",
        "answer": "1.50",
        "day": "2025-03-01",
        "tags": ["x", {"n": None}],
    }
    with pytest.raises(TaskReadError, match="row 0, column 'image': found a bytes"):
        rows_to_tasks([{**row, "image": b"png"}], columns=Columns(), source="test")


def test_nan_which_pandas_writes_for_what_is_missing_is_missing(tmp_path: Path) -> None:
    for odd in (float("nan"), decimal.Decimal("NaN")):
        rows = [{"question": "a", "answer": "1", "weight": odd}]
        [task] = rows_to_tasks(rows, columns=Columns(), source="test")
        assert task.metadata["weight"] is None
        with pytest.raises(TaskReadError, match="column 'answer' is empty"):
            rows_to_tasks([{"question": "a", "answer": odd}], columns=Columns(), source="test")
    for name in ("train.jsonl", "train.json"):
        line = '{"question": "a", "answer": NaN}\n'
        write_lines(tmp_path / name / name, line if name.endswith("l") else f"[{line}]")
        reader = HuggingfaceDatRepoReader(
            dataset_path=str(tmp_path / name), training_split="train", columns=Columns()
        )
        with pytest.raises(TaskReadError, match="column 'answer' is empty"):
            reader.get_training_tasks()
    file = write_lines(
        tmp_path / "tasks.jsonl", '{"main_query": "a", "answer": NaN, "rest": [NaN, Infinity]}\n'
    )
    [task] = read_task_file(file)
    assert task.metadata == {"answer": None, "rest": [None, float("inf")]}
    with pytest.raises(TaskReadError, match="'main_query' is missing"):
        read_task_file(write_lines(tmp_path / "other.jsonl", '{"main_query": NaN}\n'))


# huggingface_dat_repo, hub


@pytest.mark.parametrize(
    ("dataset_path", "names"),
    [
        ("gsm8k", [("openai/gsm8k", None)]),
        ("gsm8k/main", [("openai/gsm8k", "main")]),
        ("openai/gsm8k", [("openai/gsm8k", None), ("openai", "gsm8k")]),
        ("openai/gsm8k/main", [("openai/gsm8k", "main")]),
        ("hf://datasets/openai/gsm8k/main", [("openai/gsm8k", "main")]),
        ("squad", [("squad", None)]),
    ],
)
def test_a_hub_name_is_read_by_its_parts(
    dataset_path: str, names: list[tuple[str, str | None]]
) -> None:
    assert hub_names(dataset_path) == names


def test_a_name_with_too_many_parts_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="too long for a hub name"):
        hub_names("a/b/c/d")


class FakeHub:
    """Holds rows by repository, config and split, and remembers what was asked."""

    def __init__(self, rows: dict[tuple[str, str | None, str], list[dict[str, Any]]]) -> None:
        self.rows = rows
        self.asked: list[tuple[str, str | None, str]] = []

    def __call__(self, path: str, config: str | None, *, split: str) -> Iterable[dict[str, Any]]:
        from datasets.exceptions import DatasetNotFoundError

        name = (path.removeprefix("hf://datasets/"), config, split)
        self.asked.append(name)
        if name[:2] not in {known[:2] for known in self.rows}:
            raise DatasetNotFoundError(f"Dataset '{name[0]}' doesn't exist on the Hub")
        if name not in self.rows:
            raise ValueError(f"Unknown split \"{split}\". Should be one of ['train'].")
        return self.rows[name]


def hub_reader(
    dataset_path: str, load_dataset: Callable[..., Any], split: str = "train"
) -> HuggingfaceDatRepoReader:
    return HuggingfaceDatRepoReader(
        dataset_path=dataset_path, training_split=split, load_dataset=load_dataset
    )


def test_the_quick_start_name_reads_the_config_of_the_repository() -> None:
    hub = FakeHub({("openai/gsm8k", "main", "train"): questions("train", 2)})
    tasks = hub_reader("gsm8k/main", hub).get_training_tasks()
    assert [task.main_query for task in tasks] == ["train 0?", "train 1?"]
    assert hub.asked == [("openai/gsm8k", "main", "train")]


def test_a_name_that_is_no_repository_is_tried_as_name_and_config() -> None:
    hub = FakeHub({("squad", "plain", "train"): questions("train", 1)})
    assert len(hub_reader("squad/plain", hub).get_training_tasks()) == 1
    assert hub.asked == [("squad/plain", None, "train"), ("squad", "plain", "train")]


def test_a_data_set_that_is_nowhere_says_where_it_was_looked_for() -> None:
    with pytest.raises(TaskReadError, match=r"no folder here and no data set on the hub: .*'a/b'"):
        hub_reader("a/b", FakeHub({})).get_training_tasks()


def test_a_split_that_the_hub_does_not_have_names_those_it_has() -> None:
    hub = FakeHub({("openai/gsm8k", "main", "train"): questions("train", 1)})
    with pytest.raises(TaskReadError, match=r"split 'dev' of the hub data set openai/gsm8k.*train"):
        hub_reader("gsm8k/main", hub, split="dev").get_training_tasks()


def test_an_unreachable_hub_says_how_to_go_on_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    reader = HuggingfaceDatRepoReader(
        dataset_path="no-owner-of-this-name/no-data-set/main", training_split="train"
    )
    with pytest.raises(TaskReadError, match=r"hf download no-owner-of-this-name/.*HF_ENDPOINT"):
        reader.get_training_tasks()
