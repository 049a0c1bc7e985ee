"""Tasks that cannot fit are named and left out before anything runs."""

import json
import logging
from types import SimpleNamespace

import pytest

from astuner.backbone.assemble import read_tasks
from astuner.backbone.overlong import without_overlong
from astuner.config.load import load_mapping
from astuner.errors import ConfigError
from astuner.types import Task
from tests.tiny_model import make_tiny_model


def tasks(*questions):
    return [Task(main_query=text, task_id=str(i)) for i, text in enumerate(questions)]


def left(*questions, load_counter=lambda: lambda text: len(text.split())):
    found = without_overlong(
        tasks(*questions), max_tokens=4, split="training", load_counter=load_counter
    )
    return [task.task_id for task in found]


def test_a_question_that_is_longer_than_a_prompt_is_named_and_left_out(caplog):
    with caplog.at_level(logging.WARNING):
        assert left("a b c d", "a b c d e", "short") == ["0", "2"]
    (record,) = caplog.records
    assert "split=training tasks=1" in record.message and "1 (5 tokens)" in record.message
    assert "data.max_prompt_length, which is 4" in record.message


def test_questions_that_are_short_in_bytes_need_no_tokenizer():
    assert left("abc", "") == ["0", "1"]
    with pytest.raises(ZeroDivisionError):
        left("abcd", load_counter=lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        left("né\ud83d", load_counter=lambda: 1 / 0)


def test_no_task_that_fits_ends_the_command():
    with pytest.raises(ConfigError, match=r"all training tasks are left out: .* and 2 more; raise"):
        left(*["a b c d e"] * 12)


def read(folder, **data):
    """The ids of what a run trains on whose prompts have up to 200 tokens."""
    file = folder / "tasks.jsonl"
    questions = ("What is 2 plus 3? " * 60, "hi")
    file.write_text("".join(json.dumps({"main_query": text}) + "\n" for text in questions))
    content = {
        "model": {"path": str(folder / "model")},
        "task_reader": {
            "type": "jsonl_dataset_file",
            "jsonl_dataset_file": {"training": {"file_path": str(file)}},
        },
        "rollout": {"agentscope_workflow": "a->B"},
        "data": {"max_prompt_length": 200, **data},
    }
    settings = load_mapping({"astuner": content}, name="test").settings
    training, _ = read_tasks(SimpleNamespace(settings=settings, search_dirs=()))
    return [task.task_id for task in training]


def test_a_run_counts_with_the_tokenizer_of_its_model(tmp_path):
    make_tiny_model(tmp_path / "model")
    assert read(tmp_path) == ["2"]
    assert read(tmp_path, filter_overlong_prompts=False) == ["1", "2"]


def test_a_model_that_cannot_be_read_is_left_to_its_loading(tmp_path):
    (tmp_path / "model").mkdir()
    assert read(tmp_path) == ["1", "2"]
