"""What a kill costs: nothing that was answered, and no task."""

import asyncio
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from astuner.errors import ConfigError, UnreadableError
from astuner.task_generation.set_folder import SetFolder
from tests.llm_server import serving
from tests.task_generation.scripted_server import EVERY_TROUBLE, TaskWriter
from tests.task_generation.small_sets import SmallSet, make_chunks, make_options

SET_FILES = ("train.jsonl", "validation.jsonl", "rejected.jsonl", "chunks.jsonl")


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("num_kills", "num_tasks"), [(3, 24), pytest.param(20, 60, marks=pytest.mark.slow)]
)
def test_a_generation_that_is_killed_again_and_again_makes_the_same_set_and_pays_once(
    tmp_path: Path, num_kills: int, num_tasks: int
) -> None:
    undisturbed = TaskWriter(troubles=EVERY_TROUBLE)
    with serving(undisturbed) as server:
        whole = SmallSet(
            folder=tmp_path / "whole", base_url=server.base_url, chunks=make_chunks(a=9, b=9, c=9)
        )
        whole.make(task_num=num_tasks, num_workers=8)
    killed = TaskWriter(troubles=EVERY_TROUBLE, max_seconds=0.03)
    with serving(killed) as server:
        command = [sys.executable, "-m", "tests.task_generation.kill_generation", server.base_url]
        command += [str(tmp_path / "killed"), f"--kills={num_kills}", f"--tasks={num_tasks}"]
        subprocess.run(command, check=True, timeout=250)
    for name in SET_FILES:
        assert (tmp_path / "killed" / name).read_text() == whole.text(name), name
    asked_again = Counter(killed.answered)
    asked_again.subtract(undisturbed.answered)
    assert sum(count for count in asked_again.values() if count > 0) <= num_kills * 8 + 8
    _check_that_ledger_and_set_agree(tmp_path / "killed")


def test_an_interruption_writes_the_set_as_far_as_it_came_and_it_goes_on(tmp_path: Path) -> None:
    with serving(TaskWriter(troubles=EVERY_TROUBLE, max_seconds=0.01)) as server:
        sets = [
            SmallSet(
                folder=tmp_path / name, base_url=server.base_url, chunks=make_chunks(a=9, b=9, c=9)
            )
            for name in ("whole", "interrupted")
        ]
        sets[0].make(task_num=20)
        asyncio.run(_interrupt_after(3, sets[1]))
        rows = sets[1].text("train.jsonl") + sets[1].text("validation.jsonl")
        assert 3 <= len(rows.splitlines()) < 20
        assert json.loads(sets[1].text("card.json"))["ended_by"].startswith("it was interrupted")
        _check_that_ledger_and_set_agree(sets[1].folder)
        sets[1].make(task_num=20)
    for name in SET_FILES:
        assert sets[0].text(name) == sets[1].text(name), name


def test_a_line_that_a_kill_tore_is_told_and_left_out(tmp_path: Path) -> None:
    with serving(TaskWriter()) as server:
        small = SmallSet(folder=tmp_path, base_url=server.base_url, chunks=make_chunks(a=9))
        small.make(task_num=4)
        wanted = small.text("train.jsonl")
        lines = small.text("ledger.jsonl").splitlines(keepends=True)[:3]
        (tmp_path / "ledger.jsonl").write_text("".join(lines) + '{"kind": "dra')
        (tmp_path / "card.json").unlink()
        outcome = small.make(task_num=4)
    assert "cut off by a kill" in small.said[-1]
    assert small.text("train.jsonl") == wanted
    assert outcome.ended_by is None


def test_a_turn_that_was_under_way_at_a_kill_is_asked_before_what_came_behind_it_is_settled(
    tmp_path: Path,
) -> None:
    with serving(TaskWriter()) as server:
        whole, killed = (
            SmallSet(folder=tmp_path / name, base_url=server.base_url, chunks=make_chunks(a=9, b=9))
            for name in ("whole", "killed")
        )
        whole.make(task_num=10)
        killed.make(task_num=20)
        lines = map(json.loads, killed.text("ledger.jsonl").splitlines())
        kept = [line for line in lines if line["kind"] == "draft" and line["turn"] != 3]
        (tmp_path / "killed" / "ledger.jsonl").write_text(
            "".join(f"{json.dumps(line)}\n" for line in kept)
        )
        killed.make(task_num=10)
    assert killed.text("train.jsonl") == whole.text("train.jsonl")


def test_a_second_process_at_work_in_the_folder_is_refused(tmp_path: Path) -> None:
    small = SmallSet(folder=tmp_path, base_url="http://127.0.0.1:1/v1", chunks=make_chunks(a=2))
    with (
        SetFolder(tmp_path).in_use(),
        pytest.raises(ConfigError, match="another process works in"),
    ):
        small.make()


async def _interrupt_after(num_accepted: int, small: SmallSet) -> None:
    task = asyncio.create_task(small.generate(make_options(task_num=20)))
    while not small.progress or small.progress[-1].num_accepted < num_accepted:
        await asyncio.sleep(0.001)
        assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize(
    "line", [b"[]", b"\xff", b'{"kind": "new"}', b"[" * 100_000, b'{"a"\0: 1}']
)
def test_a_damaged_ledger_is_named_with_its_line_and_costs_nothing(
    tmp_path: Path, line: bytes
) -> None:
    with serving(TaskWriter()) as server:
        small = SmallSet(folder=tmp_path, base_url=server.base_url, chunks=make_chunks(a=9))
        small.make(task_num=2)
        before, num_asked = small.text("train.jsonl"), len(server.requests)
        (tmp_path / "ledger.jsonl").write_bytes(line + b"\n")
        with pytest.raises(
            UnreadableError, match=r"ledger\.jsonl:1.*delete it to make the set anew"
        ):
            small.make(task_num=4)
        assert small.text("train.jsonl") == before
        (tmp_path / "ledger.jsonl").unlink()
        small.make(task_num=2)
        assert len(server.requests) == num_asked
    assert small.text("train.jsonl") == before


def _check_that_ledger_and_set_agree(folder: Path) -> None:
    lines = [json.loads(line) for line in (folder / "ledger.jsonl").read_text().splitlines()]
    drafts = {line["turn"]: line for line in lines if line["kind"] == "draft"}
    assert len(drafts) == sum(line["kind"] == "draft" for line in lines)
    for name in ("train.jsonl", "validation.jsonl"):
        for row in map(json.loads, (folder / name).read_text().splitlines()):
            line = drafts[row["metadata"]["turn"]]
            assert line["state"] == "passed"
            assert line["draft"]["question"] == row["main_query"]
    for row in map(json.loads, (folder / "rejected.jsonl").read_text().splitlines()):
        line = drafts[row["turn"]]
        assert (line["gate"] or "duplicates", line["state"]) in [
            (row["gate"], "rejected"),
            ("duplicates", "passed"),
        ]
    card = json.loads((folder / "card.json").read_text())
    spent = sum(usage["num_calls"] for line in lines for usage in line.get("usage", {}).values())
    assert card["usage"]["num_calls"] == spent
    assert card["num_drafts"] == len(drafts)
