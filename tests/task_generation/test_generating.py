"""From chunks to a folder of tasks, against a server that misbehaves."""

import json
from pathlib import Path

from astuner.logview.reading.set_reader import SetReader
from astuner.task_generation.read_card import read_outcome
from astuner.task_reader.generated_folder import GeneratedFolderReader
from tests.llm_server import serving
from tests.task_generation.scripted_server import EVERY_TROUBLE, TaskWriter
from tests.task_generation.small_sets import SmallSet, make_chunks

SET_FILES = ("train.jsonl", "validation.jsonl", "rejected.jsonl", "chunks.jsonl")


def test_there_are_as_many_tasks_as_wanted_on_each_side(tmp_path: Path) -> None:
    with serving(TaskWriter()) as server:
        small = SmallSet(
            folder=tmp_path / "s", base_url=server.base_url, chunks=make_chunks(a=5, b=5)
        )
        outcome = small.make(task_num=10, validation_fraction=0.2)
    assert (outcome.num_training, outcome.num_validation) == (8, 2)
    assert outcome.ended_by is None
    rows = [json.loads(line) for line in small.text("train.jsonl").splitlines()]
    assert len(rows) == 8
    assert not (small.folder / "test.jsonl").exists()


def test_a_test_is_made_from_documents_of_its_own(tmp_path: Path) -> None:
    with serving(TaskWriter()) as server:
        small = SmallSet(
            folder=tmp_path / "s", base_url=server.base_url, chunks=make_chunks(a=5, b=5, c=5)
        )
        outcome = small.make(task_num=10, validation_fraction=0.2, test_fraction=0.3)
    assert (outcome.num_training, outcome.num_validation, outcome.num_test) == (5, 2, 3)
    assert read_outcome(small.folder) == outcome
    reader = GeneratedFolderReader(small.folder)
    sides = (
        reader.get_training_tasks(),
        reader.get_validation_tasks(),
        reader.get_test_tasks(),
    )
    documents = [{task.metadata["document"] for task in side} for side in sides]
    assert [len(side) for side in sides] == [5, 2, 3]
    assert all(map(len, documents)) and len(set().union(*documents)) == sum(map(len, documents))
    assert "5 tasks for training and 2 for validation and 3 for test" in small.text("README.md")
    assert SetReader(small.folder, name="s").glance().num_tasks == 10


def test_the_set_is_the_same_whatever_the_number_of_workers(tmp_path: Path) -> None:
    with serving(TaskWriter(troubles=EVERY_TROUBLE, max_seconds=0.01)) as server:
        made = [
            SmallSet(
                folder=tmp_path / str(workers),
                base_url=server.base_url,
                chunks=make_chunks(a=6, b=6, c=6),
            )
            for workers in (1, 4, 32)
        ]
        for small, workers in zip(made, (1, 4, 32), strict=True):
            small.make(task_num=16, num_workers=workers)
    for name in SET_FILES:
        assert len({small.text(name) for small in made}) == 1, name
