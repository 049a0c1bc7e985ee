"""From traces to files of tasks: what is made, kept, added and refused."""

import asyncio
import json
import os
import re
from pathlib import Path

import pytest

from astuner.errors import ConfigError, TaskReadError
from astuner.task_reader import make_task_reader
from astuner.trace_tasks.making import is_made
from astuner.traces.trace import Step, Trace, TracedToolCall
from tests.trace_tasks.conversations import (
    NOW,
    TracesInMemory,
    liked,
    make,
    order_of,
    rows_of,
    said,
    shop,
    trace,
)

pytest.importorskip("detect_secrets")
pytest.importorskip("phonenumbers")

TWO_TURNS = said("Do you ship to Norway?", "Yes.", "How long does that take?", "A week.")


def made(folder: Path, traces: list[Trace], *filters: dict) -> list[dict]:
    order = order_of(folder, TracesInMemory(traces), *filters)
    asyncio.run(make(order))
    return rows_of(order)


def test_each_message_of_a_user_becomes_a_task_with_the_conversation_before_it(tmp_path):
    system = Step(role="system", text="You are a shop.")
    rows = made(tmp_path, [trace("t", (system, *TWO_TURNS), session="a")])
    first, second = sorted(rows, key=lambda row: len(row["init_messages"]))
    assert first["main_query"] == "Do you ship to Norway?"
    assert first["init_messages"] == [{"role": "system", "content": "You are a shop."}]
    assert second["main_query"] == "How long does that take?"
    assert [one["content"] for one in second["init_messages"]] == [
        "You are a shop.",
        "Do you ship to Norway?",
        "Yes.",
    ]


def test_the_reader_finds_the_sides_beside_the_training_tasks(tmp_path):
    order = order_of(tmp_path, TracesInMemory([shop(number) for number in range(10)]))
    outcome = asyncio.run(make(order))
    reader = make_task_reader("tracing", {"train_output_path": str(tmp_path / "tasks.jsonl")})
    training, validation = reader.get_training_tasks(), reader.get_validation_tasks()
    assert (len(training), len(validation)) == (8, 2)
    assert outcome.num_of_side == {"train": 8, "validation": 2, "test": 0}
    newest = {"Where is my parcel 8?", "Where is my parcel 9?"}
    assert {task.main_query for task in validation} == newest


def test_no_set_of_tasks_says_how_to_make_one(tmp_path):
    reader = make_task_reader("tracing", {"train_output_path": str(tmp_path / "none.jsonl")})
    with pytest.raises(ConfigError, match=r"no such file: .*none\.jsonl; start the run"):
        reader.get_training_tasks()
    with pytest.raises(ConfigError, match="train_output_path is not set"):
        make_task_reader("tracing", {})


def test_tool_calls_stand_in_openais_form_and_results_name_their_call(tmp_path):
    steps = (
        Step(role="user", text="What is in stock?"),
        Step(
            role="assistant",
            text="",
            tool_calls=[TracedToolCall(call_id=None, name="stock", arguments='{"of": "tea"}')],
            tools=[{"type": "function", "function": {"name": "stock"}}],
        ),
        Step(role="tool", text="12", name="stock"),
        Step(role="assistant", text="12 packs."),
        Step(role="user", text="And coffee?"),
        Step(role="assistant", text="None."),
    )
    row = made(tmp_path, [trace("t", steps)], {"type": "cut", "params": {"turns": "last"}})[0]
    call, result = row["init_messages"][1], row["init_messages"][2]
    assert call["tool_calls"][0]["function"] == {"name": "stock", "arguments": '{"of": "tea"}'}
    assert result["tool_call_id"] == call["tool_calls"][0]["id"]
    assert row["metadata"]["tools"] == [{"type": "function", "function": {"name": "stock"}}]


def test_files_belong_to_their_owner_and_nothing_else_is_left(tmp_path):
    made(tmp_path, [shop(1), shop(2), shop(3)])
    names = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert set(names.values()) == {0o600}
    assert set(names) == {
        *("tasks.jsonl", "tasks.validation.jsonl", "tasks.test.jsonl", "tasks.manifest.json"),
        *("tasks.steps.md", "tasks.sides.json", ".tasks.lock"),
    }


def test_ids_are_the_same_whatever_is_read_with_a_conversation(tmp_path):
    alone = made(tmp_path / "a", [shop(1)])
    together = made(tmp_path / "b", [shop(0), shop(1), shop(2)])
    assert alone[0]["task_id"] in {row["task_id"] for row in together}
    assert re.fullmatch(r"[0-9a-f]{16}-1-[0-9a-f]{8}", alone[0]["task_id"])


def test_a_second_making_adds_only_what_is_new_and_keeps_the_sides(tmp_path):
    place = TracesInMemory([shop(number) for number in range(10)])
    order = order_of(tmp_path, place)
    asyncio.run(make(order))
    before = {row["task_id"]: side for side, row in order.files.rows()}
    assert is_made(order)
    place.traces += [shop(number) for number in range(10, 20)]
    assert not is_made(order)
    outcome = asyncio.run(make(order))
    after = {row["task_id"]: side for side, row in order.files.rows()}
    assert outcome.num_new == 10 and len(after) == 20
    assert {name: after[name] for name in before} == before


def test_tasks_stay_when_their_traces_are_gone(tmp_path):
    place = TracesInMemory([shop(number) for number in range(4)])
    order = order_of(tmp_path, place)
    asyncio.run(make(order))
    before = {row["task_id"]: (side, row) for side, row in order.files.rows()}
    place.traces = [shop(9)]
    asyncio.run(make(order))
    after = {row["task_id"]: (side, row) for side, row in order.files.rows()}
    assert len(after) == 5 and {name: after[name] for name in before} == before


def test_feedback_that_comes_later_changes_the_task(tmp_path):
    place = TracesInMemory([shop(1), shop(2)])
    order = order_of(tmp_path, place)
    asyncio.run(make(order))
    assert not any("answer" in row["metadata"] for row in rows_of(order))
    corrected = liked(0.0, correction="At your neighbour's.")
    place.traces[0] = shop(1, feedback=[corrected])
    outcome = asyncio.run(make(order))
    answers = [row["metadata"].get("answer") for row in rows_of(order)]
    assert sorted(answers, key=str) == ["At your neighbour's.", None]
    assert outcome.num_new == 0


def test_a_session_that_goes_on_stays_on_its_side(tmp_path):
    place = TracesInMemory([shop(number) for number in range(8)])
    order = order_of(tmp_path, place)
    asyncio.run(make(order))
    held_out = next(row for side, row in order.files.rows() if side == "validation")
    session = held_out["metadata"]["session"]
    more = said(held_out["main_query"], "At depot.", "When will it come to me then?", "Soon.")
    place.traces.append(trace("later", more, session=session))
    asyncio.run(make(order))
    sides = {side for side, row in order.files.rows() if row["metadata"]["session"] == session}
    assert sides == {"validation"}


def test_other_settings_make_all_anew_and_what_was_there_moves_away(tmp_path):
    place = TracesInMemory([shop(number) for number in range(6)])
    first, other = order_of(tmp_path, place), order_of(tmp_path, place, {"type": "choose"})
    asyncio.run(make(first))
    assert not is_made(other)
    asyncio.run(make(other))
    assert len(list((tmp_path / "tasks.earlier" / "1").glob("*.jsonl"))) == 3
    assert is_made(other)


def test_a_file_that_was_not_made_here_is_not_overwritten(tmp_path):
    (tmp_path / "tasks.jsonl").write_text('{"main_query": "mine"}\n')
    with pytest.raises(ConfigError, match="move it away"):
        made(tmp_path, [shop(1)])
    assert (tmp_path / "tasks.jsonl").read_text() == '{"main_query": "mine"}\n'


def test_no_trace_at_all_says_what_was_not_read(tmp_path):
    place = TracesInMemory([], unread={"no JSON": "spans.jsonl, line 3"})
    with pytest.raises(TaskReadError, match=r"no trace in spans\.jsonl; 1 rows.*line 3.*format"):
        asyncio.run(make(order_of(tmp_path, place)))


def test_where_all_is_dropped_the_message_says_at_which_step_and_why(tmp_path):
    place = TracesInMemory([shop(1), shop(2, feedback=[liked(0.1)]), trace("empty", [])])
    order = order_of(tmp_path, place, {"type": "choose", "params": {"feedback_above": 0.8}})
    with pytest.raises(TaskReadError, match=r"of 3 traces") as error:
        asyncio.run(make(order))
    said = str(error.value)
    assert "read dropped 1 (it is empty)" in said
    assert "choose dropped 1 (no score in its feedback), 1 (feedback not above 0.8)" in said
    assert {path.name for path in tmp_path.iterdir()} == {".tasks.lock"}


def test_a_failed_making_leaves_what_was_there(tmp_path):
    place = TracesInMemory([shop(1), shop(2)])
    order = order_of(tmp_path, place)
    asyncio.run(make(order))
    before = {path: path.read_bytes() for path in tmp_path.glob("tasks.*")}
    choosy = order_of(tmp_path, place, {"type": "choose", "params": {"errors": "only"}})
    with pytest.raises(TaskReadError):
        asyncio.run(make(choosy))
    assert {path: path.read_bytes() for path in tmp_path.glob("tasks.*")} == before


def test_a_trace_of_feedback_only_or_without_a_user_is_dropped_and_counted(tmp_path):
    lonely = trace("x", [Step(role="assistant", text="Hello?")], feedback=[liked(1)])
    order = order_of(tmp_path, TracesInMemory([lonely, trace("y", [], feedback=[]), shop(1)]))
    asyncio.run(make(order))
    steps = json.loads(order.files.manifest_file.read_text())["steps"]
    assert steps[0]["dropped"] == {"no user says anything": 1, "it is empty": 1}
    assert "| read | 3 | 1 | 2 |" in order.files.sheet_file.read_text()


def test_a_conversation_of_5000_turns_gives_a_bounded_number_of_tasks(tmp_path):
    texts = [text for number in range(5000) for text in (f"What is item {number}?", "A thing.")]
    unmasked = {"type": "mask", "enabled": False}  # which takes seconds for so many texts
    rows = made(tmp_path, [trace("long", said(*texts))], unmasked)
    assert len(rows) == 20
    assert {row["main_query"] for row in rows} == {f"What is item {n}?" for n in range(4980, 5000)}


def test_a_time_in_the_future_holds_nothing_out(tmp_path):
    ahead = trace("ahead", said("What is new?", "Nothing.", started=NOW + 1e9), session="ahead")
    order = order_of(tmp_path, TracesInMemory([*(shop(n) for n in range(9)), ahead]))
    asyncio.run(make(order))
    sides = {row["metadata"]["trace_id"]: side for side, row in order.files.rows()}
    assert sides["ahead"] == "train"
    assert "times in the future" in order.files.sheet_file.read_text()


def test_pictures_are_counted_where_their_placeholders_stand(tmp_path):
    steps = [Step(role="user", text="What is this? [image]", num_left_out=1)]
    order = order_of(tmp_path, TracesInMemory([trace("p", steps)]))
    asyncio.run(make(order))
    assert rows_of(order)[0]["metadata"]["num_left_out"] == 1
    assert "placeholders for pictures" in order.files.sheet_file.read_text()


def test_a_turn_that_two_traces_hold_becomes_one_task(tmp_path):
    again = trace("t2", TWO_TURNS[:2], session="a")
    rows = made(tmp_path, [trace("t", TWO_TURNS, session="a"), again], {"type": "cut"})
    assert len(rows) == 2


def test_two_makings_at_once_are_refused(tmp_path):
    order = order_of(tmp_path, TracesInMemory([shop(1)]))
    with order.files.in_use(), pytest.raises(ConfigError, match="another process makes"):
        asyncio.run(make(order))


def test_a_making_that_is_cancelled_changes_nothing_and_can_be_done_again(tmp_path):
    class Endless(TracesInMemory):
        def read(self, unread):
            for number in range(10**9):
                yield shop(number)

    order = order_of(tmp_path, Endless([]), {"type": "cut"})

    async def interrupted() -> None:
        begun = asyncio.Event()
        task = asyncio.create_task(
            make_until(order, lambda: begun.set()),
        )
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(interrupted())
    assert os.listdir(tmp_path) == [".tasks.lock"]
    assert len(made(tmp_path, [shop(1)])) == 1


async def make_until(order, begun) -> None:
    from astuner.trace_tasks.making import make_traced_tasks

    await make_traced_tasks(order, watch=lambda *_: begun(), say=lambda _: None)
