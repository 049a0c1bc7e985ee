"""Only tasks of a middling pass rate are taken, whatever they are measured together with."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from astuner.task_generation.pass_rate import PassRate
from astuner.types import Task
from tests.llm_server import serving
from tests.task_generation.scripted_server import EVERY_TROUBLE, TaskWriter
from tests.task_generation.small_sets import CountingMeter, SmallSet, make_chunks


class FailingMeter:
    async def measure(self, tasks: Sequence[Task]) -> Sequence[PassRate]:
        return [PassRate(num_solved=0, num_judged=0) for _ in tasks]


def test_tasks_that_are_too_easy_or_too_hard_are_left_out_with_their_rate(tmp_path: Path) -> None:
    with serving(TaskWriter()) as server:
        meter = CountingMeter()
        small = SmallSet(
            folder=tmp_path, base_url=server.base_url, chunks=make_chunks(a=9, b=9), meter=meter
        )
        outcome = small.make(task_num=12, pass_rate_above=0.3, pass_rate_below=0.7)
    rows = [json.loads(line) for line in small.text("train.jsonl").splitlines()]
    assert all(0.3 < row["metadata"]["pass_rate"] < 0.7 for row in rows)
    assert {row["metadata"]["pass_rate_attempts"] for row in rows} == {15}
    rejected = [json.loads(line) for line in small.text("rejected.jsonl").splitlines()]
    assert {row["gate"] for row in rejected} == {"pass_rate"}
    assert "of 15 attempts" in rejected[0]["reason"]
    assert outcome.by_gate[-1].num_seen == outcome.by_gate[-1].num_rejected + 12
    measured = [task for batch in meter.batches for task in batch]
    assert len(measured) == len({*measured}) == len(rows) + 2 + len(rejected)
    assert any(progress.is_measuring for progress in small.progress)


@pytest.mark.parametrize("num_workers", [4, 32])
def test_the_set_is_the_same_whatever_is_measured_together(
    tmp_path: Path, num_workers: int
) -> None:
    texts = []
    with serving(TaskWriter(troubles=EVERY_TROUBLE)) as server:
        for workers in (1, num_workers):
            small = SmallSet(
                folder=tmp_path / str(workers),
                base_url=server.base_url,
                chunks=make_chunks(a=9, b=9),
                meter=CountingMeter(),
            )
            small.make(task_num=8, num_workers=workers, pass_rate_above=0.3)
            texts.append([small.text(name) for name in ("train.jsonl", "rejected.jsonl")])
    assert texts[0] == texts[1]


def test_what_was_measured_is_not_measured_again(tmp_path: Path) -> None:
    with serving(TaskWriter()) as server:
        meter = CountingMeter()
        small = SmallSet(
            folder=tmp_path, base_url=server.base_url, chunks=make_chunks(a=9, b=9), meter=meter
        )
        small.make(task_num=6)
        small.make(task_num=12)
    measured = [task for batch in meter.batches for task in batch]
    assert len(measured) == len({*measured})


def test_a_task_without_a_verdict_is_neither_taken_nor_rejected(tmp_path: Path) -> None:
    with serving(TaskWriter()) as server:
        small = SmallSet(
            folder=tmp_path,
            base_url=server.base_url,
            chunks=make_chunks(a=9),
            meter=FailingMeter(),
        )
        with pytest.raises(Exception, match="none of 6 drafts became a task"):
            small.make(task_num=3, max_drafts_per_task=2)
        assert small.text("rejected.jsonl") == ""
        small.meter = CountingMeter()
        assert small.make(task_num=3, max_drafts_per_task=4).ended_by is None
