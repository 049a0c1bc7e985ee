"""Budgets, failures and too few drafts: a set as far as it came, and words that say why."""

import json
from pathlib import Path

import pytest

from astuner.errors import BackboneError, ConfigError
from astuner.llm.budget import Budget
from tests.llm_server import KEY, refuses, serving
from tests.task_generation.scripted_server import TaskWriter, Troubles
from tests.task_generation.small_sets import SmallSet, make_chunks


@pytest.mark.parametrize("num_workers", [1, 4])
@pytest.mark.parametrize(
    ("limit", "told"),
    [
        ({"max_calls": 12}, "budget.max_calls = 12 is used up: 12 calls"),
        ({"max_tokens": 1000}, "budget.max_tokens = 1000 is used up"),
        (
            {"max_cost": 1.0, "input_token_price": 0.001, "output_token_price": 0.001},
            "budget.max_cost = 1 is used up",
        ),
    ],
)
def test_a_budget_ends_it_with_what_there_is(
    tmp_path: Path, num_workers: int, limit: dict, told: str
) -> None:
    with serving(TaskWriter()) as server:
        small = SmallSet(folder=tmp_path, base_url=server.base_url, chunks=make_chunks(a=9, b=9))
        outcome = small.make(task_num=40, num_workers=num_workers, **limit)
        num_asked = len(server.requests)
    assert outcome.ended_by is not None and told in outcome.ended_by
    assert 0 < outcome.num_training + outcome.num_validation < 40
    assert outcome.usage.num_calls == num_asked <= 14
    assert json.loads(small.text("card.json"))["ended_by"] == outcome.ended_by
    assert len(small.text("train.jsonl").splitlines()) == outcome.num_training


def test_a_budget_counts_earlier_starts_and_more_of_it_goes_on(tmp_path: Path) -> None:
    with serving(TaskWriter()) as server:
        small = SmallSet(folder=tmp_path, base_url=server.base_url, chunks=make_chunks(a=9, b=9))
        first = small.make(task_num=20, max_calls=10)
        again = small.make(task_num=20, max_calls=10)
        assert (again.num_training, again.usage) == (first.num_training, first.usage)
        whole = small.make(task_num=20, max_calls=100)
        num_asked = len(server.requests)
    assert whole.ended_by is None
    assert whole.usage.num_calls == num_asked == 40


def test_the_budget_of_the_model_itself_ends_it_too(tmp_path: Path) -> None:
    with serving(TaskWriter()) as server:
        small = SmallSet(
            folder=tmp_path,
            base_url=server.base_url,
            chunks=make_chunks(a=9, b=9),
            budget=Budget(max_calls=9),
        )
        outcome = small.make(task_num=40)
        assert outcome.ended_by is not None and "astuner.llm.max_calls = 9" in outcome.ended_by
        assert len(server.requests) == 9
        small.budget = None
        assert small.make(task_num=10).ended_by is None
        assert len(server.requests) == 20


def test_no_cost_is_told_without_prices(tmp_path: Path) -> None:
    with serving(TaskWriter()) as server:
        small = SmallSet(folder=tmp_path, base_url=server.base_url, chunks=make_chunks(a=9))
        assert small.make(task_num=3).cost is None
        priced = small.make(task_num=3, input_token_price=0.01, output_token_price=0.0)
    assert priced.cost == pytest.approx(priced.usage.num_input_tokens * 0.01)


def test_too_many_drafts_without_an_answer_end_it_with_the_commonest_reason(tmp_path: Path) -> None:
    with serving(TaskWriter(troubles=Troubles(never=1.0))) as server:
        small = SmallSet(folder=tmp_path, base_url=server.base_url, chunks=make_chunks(a=9, b=9))
        with pytest.raises(
            BackboneError, match=r"(?s)(\d+) of \1 drafts got no answer.*not loaded"
        ):
            small.make(task_num=40)
    assert (tmp_path / "card.json").exists()


def test_a_model_that_never_answers_ends_a_small_set_too(tmp_path: Path) -> None:
    with serving(TaskWriter(troubles=Troubles(never=1.0))) as server:
        small = SmallSet(folder=tmp_path, base_url=server.base_url, chunks=make_chunks(a=1))
        with pytest.raises(BackboneError, match=r"got no answer|none of 0 drafts became a task"):
            small.make(task_num=1, is_repeatable=True, max_failed_fraction=1.0)


def test_drafts_that_failed_are_asked_again_by_the_next_start_in_their_place(
    tmp_path: Path,
) -> None:
    writer = TaskWriter(troubles=Troubles(never=0.1))
    with serving(writer) as server:
        small = SmallSet(folder=tmp_path / "s", base_url=server.base_url, chunks=make_chunks(a=9))
        first = small.make(task_num=54, is_repeatable=True)
        assert first.num_failed > 0 and first.ended_by is not None
        assert f"no answer: {first.num_failed}; the commonest reason" in small.said[-1]
        writer.troubles = Troubles()
        small.make(task_num=54, is_repeatable=True)
        never_failed = SmallSet(
            folder=tmp_path / "t", base_url=server.base_url, chunks=make_chunks(a=9)
        )
        never_failed.make(task_num=54, is_repeatable=True)
    assert small.text("train.jsonl") == never_failed.text("train.jsonl")


def test_one_draft_that_hangs_is_asked_again_and_changes_nothing(tmp_path: Path) -> None:
    texts = []
    for troubles in (Troubles(), Troubles(hang_up=0.05)):
        with serving(TaskWriter(troubles=troubles)) as server:
            small = SmallSet(
                folder=tmp_path / str(len(texts)),
                base_url=server.base_url,
                chunks=make_chunks(a=9, b=9),
                timeout_seconds=3.0,
            )
            small.make(task_num=12)
            texts.append(small.text("train.jsonl") + small.text("rejected.jsonl"))
    assert texts[0] == texts[1]


def test_the_gate_that_took_most_is_named_where_drafts_run_out(tmp_path: Path) -> None:
    with serving(TaskWriter(troubles=Troubles(unsupported=0.8))) as server:
        small = SmallSet(folder=tmp_path, base_url=server.base_url, chunks=make_chunks(a=9, b=9))
        outcome = small.make(task_num=10, max_drafts_per_task=2)
    assert outcome.num_drafts == 20
    assert outcome.ended_by is not None
    assert "max_drafts_per_task = 2: 20 drafts were made for 10 tasks" in outcome.ended_by
    assert "the gate supported took most" in outcome.ended_by


def test_where_no_task_is_left_it_says_so(tmp_path: Path) -> None:
    with serving(TaskWriter(troubles=Troubles(unsupported=1.0))) as server:
        small = SmallSet(folder=tmp_path, base_url=server.base_url, chunks=make_chunks(a=2))
        with pytest.raises(BackboneError, match=r"none of 4 drafts became a task.*supported"):
            small.make(task_num=2, max_drafts_per_task=2)
    assert len(small.text("rejected.jsonl").splitlines()) == 4


def test_a_model_that_repeats_itself_is_asked_each_question_once(tmp_path: Path) -> None:
    with serving(TaskWriter()) as server:
        small = SmallSet(folder=tmp_path, base_url=server.base_url, chunks=make_chunks(a=2))
        outcome = small.make(task_num=50, is_repeatable=True, validation_fraction=0.0)
    assert outcome.num_drafts == 2 * 2 * 3
    assert outcome.ended_by is not None and "temperature" in outcome.ended_by


def test_without_chunks_and_seeds_nothing_is_made(tmp_path: Path) -> None:
    small = SmallSet(folder=tmp_path, base_url="http://127.0.0.1:1/v1")
    with pytest.raises(ConfigError, match="neither a chunk of a document nor a seed"):
        small.make()


def test_a_refused_key_ends_it_at_once(tmp_path: Path) -> None:
    with serving(lambda body: refuses(401)) as server:
        small = SmallSet(folder=tmp_path, base_url=server.base_url, chunks=make_chunks(a=2))
        with pytest.raises(ConfigError, match="LLM_KEY"):
            small.make()


def test_no_file_of_a_set_holds_the_key(tmp_path: Path) -> None:
    with serving(TaskWriter()) as server:
        small = SmallSet(folder=tmp_path, base_url=server.base_url, chunks=make_chunks(a=9))
        small.make(task_num=4)
        assert server.keys[0] == KEY
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []
