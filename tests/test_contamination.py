"""Tasks that stand in two splits: found in the same and nearly the same words, and nothing else."""

import io
import json
from pathlib import Path
from typing import Any

import pytest

from astuner.backbone.contaminated import contamination_of_evaluated, warn_of_contamination
from astuner.config.load import load_config, load_mapping
from astuner.errors import ConfigError
from astuner.evaluation import contamination
from astuner.evaluation.contamination import find_contamination, find_contaminations
from astuner.imports import module_folders
from astuner.run_dir import RunDir
from astuner.task_reader import make_task_reader
from astuner.types import Task
from tests.runs import make_run

TUTORIALS = Path(__file__).parents[1] / "tutorial"
BAKER = "the old baker sells fresh bread and sweet rolls to people of this small town at dawn"
WORDS = BAKER.split()


def ask(question: str, task_id: str = "", **fields: Any) -> Task:
    return Task(main_query=question, task_id=task_id or question, **fields)


def shared(tasks: list[Task], others: list[Task]) -> dict[str, list[tuple[str, str]]]:
    found = find_contamination(tasks, others, split="test", other="training")
    return {
        "same": [(one.task_id, one.other_id) for one in found.same],
        "near": [(one.task_id, one.other_id) for one in found.near],
    }


def test_the_same_words_are_found_whatever_their_case_and_signs() -> None:
    tasks = [ask("How many  EGGS, then?", "a"), ask("How many eggs are left?", "b")]
    found = shared(tasks, [ask("other"), ask("how many eggs then", "7")])
    assert found == {"same": [("a", "7")], "near": []}


def test_one_word_of_many_makes_it_nearly_the_same() -> None:
    changed = [*WORDS[:8], "kind", *WORDS[9:]]
    tasks = [ask(" ".join(changed), "a"), ask(" ".join(reversed(WORDS)), "b")]
    assert shared(tasks, [ask(" ".join(WORDS), "7")]) == {"same": [], "near": [("a", "7")]}


def test_other_numbers_make_another_question() -> None:
    tasks = [ask(f"{' '.join(WORDS)} for 3 coins", "a")]
    assert shared(tasks, [ask(f"{' '.join(WORDS)} for 4 coins", "7")])["near"] == []


@pytest.mark.parametrize(
    ("sum_", "other"), [("1 + 5 =", "1 - 5 ="), ("0+8", "0-8"), ("2 * -3", "2 * 3"), ("3/4", "3^4")]
)
def test_other_operators_make_another_question(sum_: str, other: str) -> None:
    tasks = [ask(f"{BAKER}: {sum_}", "a")]
    answers = {"metadata": {"answer": "5"}}
    assert shared(tasks, [ask(f"{BAKER}: {other}", "7", **answers)])["same"] == []
    assert shared([ask(sum_, "a")], [ask(other, "7")]) == {"same": [], "near": []}


def test_a_dash_between_words_makes_no_other_question() -> None:
    found = shared([ask("fresh bread - sweet rolls?", "a")], [ask("fresh bread, sweet rolls", "7")])
    assert found["same"] == [("a", "7")]


def test_a_template_that_all_questions_share_makes_none_alike() -> None:
    """By their whole words each two of them would share nearly all."""
    fruit = "apple pear plum fig lime kiwi melon grape peach mango nut rye oat corn rice tea"
    names = fruit.split()
    template = " ".join(WORDS * 2)
    tasks = [ask(f"{template} {a} {b}") for a, b in zip(names, reversed(names), strict=True)]
    others = [ask(f"{template} {a} {b}") for a, b in zip(names, names[2:], strict=False)]
    assert shared(tasks, others) == {"same": [], "near": []}


def test_tasks_of_an_environment_are_what_it_is_given() -> None:
    seeds = [ask("", f"seed-{n}", env_type="maze", metadata={"seed": n}) for n in range(4)]
    named = [ask("", name, env_type="world") for name in ("a", "b", "c")]
    assert shared(seeds[2:], seeds[:2]) == shared(named[2:], named[:2]) == {"same": [], "near": []}
    assert shared(seeds[1:3], seeds[:2])["same"] == [("seed-1", "seed-1")]
    assert shared(named[1:], named[:2])["same"] == [("b", "b")]
    played = [ask("Play.", str(n), env_type="maze", metadata={"seed": n}) for n in range(2)]
    assert shared(played[1:], played[:1]) == {"same": [], "near": []}


def test_a_question_that_many_tasks_have_is_told_apart_by_the_metadata() -> None:
    tasks = [ask("Solve the puzzle.", str(n), metadata={"grid": [n]}) for n in range(5)]
    assert shared(tasks[3:], tasks[:3]) == {"same": [], "near": []}
    assert shared(tasks[2:4], tasks[:3])["same"] == [("2", "2")]
    alone = ask("Solve this one.", "x", metadata={"row": 1})
    copied = ask("Solve this one.", "y", metadata={"row": 2})
    assert shared([alone], [copied])["same"] == [("x", "y")]  # a number of its row makes no other


def test_a_question_may_stand_in_the_messages_before_it() -> None:
    def chat(text: str, task_id: str) -> Task:
        turns = [{"role": "system", "content": "Help."}, {"role": "user", "content": text}]
        return ask("", task_id, init_messages=turns)

    assert shared([chat("What is it?", "a")], [chat("what is it", "b")])["same"] == [("a", "b")]
    assert shared([chat("What is it?", "a")], [chat("who is it", "b")])["same"] == []


def test_the_line_counts_and_names_the_first_of_them() -> None:
    tasks = [ask(f"q {n}", f"t{n}") for n in range(9)]
    [found] = find_contaminations(tasks, {"training": tasks[:7], "validation": []}, split="test")
    assert found.line() == (
        "7 of 9 test tasks stand in training too: 7 word by word "
        "(t0 = t0, t1 = t1, t2 = t2, t3 = t3, t4 = t4, …)"
    )


def test_beyond_a_bound_only_the_same_words_are_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contamination, "MAX_COMPARED", 1)
    others = [ask("first of all", "1"), ask(" ".join(WORDS), "2"), ask("the last", "3")]
    tasks = [ask("the last", "c"), ask(" ".join([*WORDS[:8], "kind", *WORDS[9:]]), "a")]
    found = find_contamination(tasks, others, split="test", other="training")
    assert ([one.task_id for one in found.same], list(found.near)) == (["c"], [])
    assert "not looked for among 2 further tasks" in found.line()


# A run


def run_on(folder: Path, **reader: Any):
    (folder / "agents.py").write_text(
        "from astuner.workflow import Workflow\nclass A(Workflow):\n"
        "    async def execute(self, workflow_task, tuner): ...\n"
    )
    workflow = f"{folder / 'agents.py'}->A"
    content = {
        "model": {"path": "m"},
        "rollout": {"agentscope_workflow": workflow},
        "task_reader": reader,
    }
    screen = io.StringIO()
    loaded = load_mapping({"astuner": content}, name="test")
    return make_run(loaded, RunDir(root=folder), screen=screen), screen


def write_questions(path: Path, *questions: str) -> dict[str, str]:
    path.write_text("".join(json.dumps({"main_query": text}) + "\n" for text in questions))
    return {"file_path": str(path)}


def test_a_run_warns_where_its_test_is_its_training(tmp_path: Path) -> None:
    file = write_questions(tmp_path / "a.jsonl", "one thing", "another thing")
    of_run = {"training": file, "test": file}
    run, screen = run_on(tmp_path, type="jsonl_dataset_file", jsonl_dataset_file=of_run)
    training = [ask("one thing", "1"), ask("another thing", "2")]
    assert warn_of_contamination(run, training, []) == 2
    [line] = screen.getvalue().splitlines()
    assert line.startswith(
        "warning: 2 of 2 test tasks stand in training too: 2 word by word (1 = 1"
    )
    assert "leave them out of training or of test" in line


def test_a_test_that_is_not_there_ends_a_run_before_it_trains(tmp_path: Path) -> None:
    of_run = {
        "training": write_questions(tmp_path / "a.jsonl", "q"),
        "test": {"file_path": "gone.jsonl"},
    }
    run, _ = run_on(tmp_path, type="jsonl_dataset_file", jsonl_dataset_file=of_run)
    with pytest.raises(ConfigError, match=r"test\.file_path: no such file"):
        warn_of_contamination(run, [ask("q")], [])


def test_dummy_tasks_and_servers_are_left_alone(tmp_path: Path) -> None:
    """The validation of dummies is their training, and a server is asked once there is a test."""
    sources = {
        "d": {"type": "random_dummy", "random_dummy": {"num_tasks": 2, "num_test_tasks": 1}},
        "s": {
            "type": "ors",
            "ors": {"url": "http://127.0.0.1:1", "training_split": "train", "test_split": "test"},
        },
    }
    run, screen = run_on(tmp_path, type="mixture", mixture={"sources": sources})
    dummies = [ask("[dummy task @ 1]", "d/1", source="d")]
    assert warn_of_contamination(run, dummies, dummies) is None
    assert screen.getvalue() == ""
    others = [ask("from a file", "s/1", source="s")]
    warn_of_contamination(run, others, others)
    assert "1 of 1 validation tasks" in screen.getvalue()
    assert contamination_of_evaluated(run, others, split="test") == []


@pytest.mark.parametrize("name", ["countdown", "document_qa", "math_agent", "reasoning_gym"])
def test_no_tutorial_validates_on_what_it_trains(name: str) -> None:
    """Those whose tasks lie here or are made in a moment; the others download or generate theirs,
    or play games, whose tasks have no words."""
    if name == "reasoning_gym":
        pytest.importorskip("reasoning_gym")
    conf = TUTORIALS / f"example_{name}" / f"{name}_laptop.yaml"
    settings = load_config(conf).settings.task_reader
    section = getattr(settings, settings.type).model_dump()
    reader = make_task_reader(settings.type, section, module_folders(conf))
    training, validation = reader.get_training_tasks(), reader.get_validation_tasks()
    assert len(validation) > 10
    assert find_contaminations(validation, {"training": training}, split="validation") == []
