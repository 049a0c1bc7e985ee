"""The countdown of the tutorial: its tasks, and two real steps of its laptop's YAML."""

import json
import re
import shlex
from pathlib import Path
from random import Random

import pytest

pytest.importorskip("torch")
pytest.importorskip("agentscope")  # whose ChatResponse the model's replies are

from astuner.config.load import load_config
from astuner.task_judge.countdown_answer_as_judge import CountdownAnswerAsJudge
from astuner.task_reader.jsonl_dataset_file import read_task_file
from astuner.types import Task, WorkflowOutput
from tests.taught_steps import taught_steps
from tests.test_rollout import attempt
from tutorial.example_countdown import make_tasks
from tutorial.example_countdown.countdown import EXAMPLES, first_messages
from tutorial.example_countdown.make_tasks import OPERATORS, Difficulty, draw_puzzle, make_splits

FOLDER = Path(__file__).parents[1] / "tutorial" / "example_countdown"
PAIRS = FOLDER / "pairs"
EASY = Difficulty(numbers=(2,), operators=("+", "-"), largest=20, largest_target=40)
HARD = Difficulty(numbers=(3, 4), operators=OPERATORS, largest=99, largest_target=999)


def split(difficulty, *, seed=1):
    return make_splits(difficulty, num_training=60, num_validation=20, seed=seed)


@pytest.mark.parametrize("difficulty", [EASY, HARD])
def test_every_target_is_reached_by_all_numbers_each_used_once(difficulty):
    for puzzle in (puzzle for part in split(difficulty) for puzzle in part):
        assert len(puzzle.nums) in difficulty.numbers
        assert eval(puzzle.solution) == puzzle.target
        used = [int(number) for number in re.findall(r"\d+", puzzle.solution)]
        assert sorted(used) == sorted(puzzle.nums)
        assert 1 <= puzzle.nums[-1] <= puzzle.nums[0] <= difficulty.largest
        assert 1 <= puzzle.target <= difficulty.largest_target


@pytest.mark.parametrize("difficulty", [EASY, HARD])
def test_no_numbers_of_the_validation_are_in_training_and_no_task_stands_twice(difficulty):
    training, validation = split(difficulty)
    assert not {puzzle.nums for puzzle in training} & {puzzle.nums for puzzle in validation}
    both = [*training, *validation]
    assert len({(puzzle.nums, puzzle.target) for puzzle in both}) == 80


def test_a_seed_makes_the_same_tasks_and_another_one_others():
    assert split(HARD) == split(HARD)
    assert split(HARD, seed=2) != split(HARD)


def test_all_operators_are_used():
    puzzles = [draw_puzzle(HARD, Random(seed)) for seed in range(200)]
    assert {
        sign for puzzle in puzzles if puzzle for sign in OPERATORS if sign in puzzle.solution
    } == {*OPERATORS}


def test_more_tasks_than_there_are_is_said(tmp_path, capsys):
    few = ["--numbers", "2", "--largest", "4", "--folder", str(tmp_path)]
    with pytest.raises(SystemExit):
        make_tasks.main(few)
    said = capsys.readouterr().err
    assert re.search(r"cannot draw 200 tasks .* ask for fewer tasks", said)
    assert "200 tasks of 2 numbers up to 4 by + - * / with targets up to 999: found" in said
    assert list(tmp_path.iterdir()) == []


def test_the_pairs_beside_the_tutorial_are_those_that_its_page_makes(tmp_path):
    (command,) = re.findall(r"make_tasks\.py (.*--numbers 2.*)", (FOLDER / "README.md").read_text())
    arguments = shlex.split(command)
    folder = arguments.index("--folder") + 1
    assert arguments[folder] == "tutorial/example_countdown/pairs"
    arguments[folder] = str(tmp_path)
    make_tasks.main(arguments)
    made = {file.name: file.read_text() for file in tmp_path.iterdir()}
    assert made == {file.name: file.read_text() for file in PAIRS.iterdir()}


def test_no_example_shows_numbers_of_the_validation():
    held_out = [task.metadata["nums"] for task in read_task_file(PAIRS / "validation.jsonl")]
    shown = [[int(number) for number in re.findall(r"\d+", answer)] for _, answer in EXAMPLES]
    assert not [numbers for numbers in held_out if numbers in shown]


def test_the_judge_takes_the_solutions():
    judge = CountdownAnswerAsJudge(None)
    for puzzle in split(HARD)[1]:
        task = Task(**json.loads(json.dumps(puzzle.as_task())))
        output = WorkflowOutput(metadata={"final_answer": f"\\boxed{{{puzzle.solution}}}"})
        assert judge.compute_reward(attempt(task=task), output).reward == 1


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.yaml")), ids=lambda file: file.stem)
def test_the_settings_load(file):
    assert load_config(file).config.countdown.shows_examples in (True, False)


def test_its_settings_train_a_model_that_knows_a_right_and_a_wrong_sign(tmp_path):
    task, *_ = read_task_file(PAIRS / "train.jsonl")
    first, second = task.metadata["nums"]
    steps = taught_steps(
        FOLDER / "countdown_laptop.yaml",
        tmp_path,
        task,
        asked=[*first_messages(shows_examples=True), {"role": "user", "content": task.main_query}],
        answers=[f"\\boxed{{{first} {sign} {second}}}" for sign in "+-"],
    )
    assert [step["rollout/episodes"] for step in steps] == [16, 16]
    assert [step["rollout/failed_episodes"] for step in steps] == [0, 0]
    assert [step["train/updates"] for step in steps] == [1, 1]
    assert 0.1 < steps[0]["reward/mean"] < 1
