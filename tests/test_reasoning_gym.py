"""Tasks of reasoning-gym, and the judge that has their data set score an answer."""

import json
from pathlib import Path

import pytest

pytest.importorskip("reasoning_gym")

from astuner.backbone.user_code import load_workflow, make_judge
from astuner.config.load import load_config
from astuner.errors import ConfigError, JudgeError, TaskReadError
from astuner.imports import module_folders
from astuner.task_judge.reasoning_gym_as_judge import ReasoningGymJudge, find_answer_text
from astuner.task_reader import make_task_reader
from astuner.task_reader.procedural import ItemRecipe, open_dataset
from astuner.task_reader.sources import task_sources
from astuner.types import Task, WorkflowOutput, WorkflowTask

TUTORIAL = Path(__file__).parents[1] / "tutorial" / "example_reasoning_gym"
SMALL = {"chain_sum": {"max_terms": 2, "max_digits": 1}}


def reader(*datasets, **changes):
    settings = {"num_tasks": 20, "num_validation_tasks": 5, "seed": 1, **changes}
    return make_task_reader("reasoning_gym", {"datasets": list(datasets), **settings})


def make_all():
    """Two tasks of each data set; two of these sets leave something to chance."""
    names = ("chain_sum", "countdown", "acre", "number_sorting", "prime_factorization")
    made = reader(*names, "ransom_note", "codeio", options=SMALL, num_tasks=2)
    return made.get_training_tasks()


@pytest.fixture(scope="module")
def tasks():
    return {task.task_id: task for task in make_all()}


@pytest.fixture
def sum_task(tasks):
    return tasks["chain_sum-1"]


def judged(task, answer):
    workflow_task = WorkflowTask(task=task, episode_id="e", step=1, attempt=0, is_validation=False)
    output = WorkflowOutput(metadata={} if answer is None else {"final_answer": answer})
    return ReasoningGymJudge(None).compute_reward(workflow_task, output)


def test_a_task_is_the_question_with_all_that_makes_it_again(sum_task):
    assert sum_task.main_query.startswith("State the final answer to the following arithmetic")
    kept = {key: sum_task.metadata[key] for key in ("dataset", "options", "seed", "size", "index")}
    assert kept == {
        "dataset": "chain_sum", "options": SMALL["chain_sum"], "seed": 1, "size": 2, "index": 1,
    }  # fmt: skip
    assert json.loads(json.dumps(sum_task.metadata)) == sum_task.metadata


def test_the_same_settings_make_the_same_tasks_also_where_a_data_set_leaves_them_to_chance(tasks):
    assert make_all() == list(tasks.values())


def test_an_item_that_cannot_be_made_is_said_with_the_reason():
    never = {"spell_backward": {"min_word_len": 90, "max_word_len": 99}}
    with pytest.raises(TaskReadError, match=r"spell_backward could not make item 0: \w+Error"):
        reader("spell_backward", options=never).get_training_tasks()


def test_no_question_stands_twice_or_in_two_splits(caplog):
    sizes = {"num_tasks": 400, "num_validation_tasks": 60, "num_test_tasks": 30}
    with caplog.at_level("INFO"):
        made = reader("chain_sum", options=SMALL, **sizes)
        training, validation = made.get_training_tasks(), made.get_validation_tasks()
        test = reader("chain_sum", options=SMALL, **{**sizes, "num_tasks": 4}).get_test_tasks()
    questions = [task.main_query for task in (*training, *validation, *test)]
    assert len(set(questions)) == len(questions) < 490 and len(test) > 10
    assert test == made.get_test_tasks()  # whatever else is asked for
    dropped = 400 - len(training)
    assert f"split=training tasks={len(training)} dropped_duplicates={dropped}" in caplog.text


def test_where_the_validation_has_all_questions_it_says_so():
    tiny = {"count_bits": {"min_n": 1, "max_n": 2}}
    with pytest.raises(TaskReadError, match="each of the 20 training questions of count_bits"):
        reader("count_bits", options=tiny, num_validation_tasks=20).get_training_tasks()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"datasets": []}, "names no data set"),
        ({"datasets": ["chain_sum", "chain_sum"]}, "name each once"),
        ({"datasets": ["chain_sums"]}, r"no data set 'chain_sums'; the nearest are .*chain_sum"),
        ({"datasets": ["composite"]}, "composite is a mixture of other data sets"),
        ({"options": {"countdown": {}}}, "options.countdown: found .* which are chain_sum"),
        ({"options": {"chain_sum": 3}}, "options.chain_sum: found 3"),
        ({"options": {"chain_sum": {"max_term": 3}}}, "max_term: .*did you mean max_terms"),
        ({"options": {"chain_sum": {"seed": 3}}}, "set task_reader.reasoning_gym.seed"),
        ({"options": {"chain_sum": {"min_terms": 9}}}, "refused by the data set: .*max_terms must"),
    ],
)
def test_settings_that_no_data_set_can_keep_are_refused(changes, said):
    settings = {"datasets": ["chain_sum"], "num_tasks": 3, **changes}
    with pytest.raises(ConfigError, match=said):
        make_task_reader("reasoning_gym", settings).get_training_tasks()


@pytest.mark.parametrize(
    "name", ["chain_sum", "countdown", "acre", "number_sorting", "ransom_note", "codeio"]
)
def test_a_data_set_gives_its_own_answer_the_full_score(tasks, name):
    task = tasks[f"{name}-1"]
    assert judged(task, f"So it is\n<answer>{task.metadata['answer']}</answer>.") == (1.0, True)


def test_a_part_of_the_score_is_no_success(tasks):
    assert judged(tasks["countdown-0"], "<answer>1 + 1</answer>") == (0.05, False)


def test_a_task_is_judged_from_its_record_alone(sum_task):
    back = Task.model_validate_json(sum_task.model_dump_json())
    assert judged(back, sum_task.metadata["answer"]) == (1.0, True)


def test_a_question_that_is_not_made_again_is_judged_by_what_the_task_keeps(sum_task):
    kept = {**sum_task.metadata, "answer": "1234"}
    other = sum_task.model_copy(update={"main_query": "Another version's?", "metadata": kept})
    assert judged(other, "1234") == (1.0, True)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<answer>1</answer> no, <answer> 2\n3 </answer> is it", "2\n3"),
        (r"<answer>2</answer> \boxed{3}", "2"),
        (r"it is \boxed{4} and \boxed{5}.", "5"),
        ("first\n\n  last line \n", "last line"),
        ("", ""),
    ],
)
def test_the_answer_stands_in_its_marks_or_on_the_last_line(text, answer):
    assert find_answer_text(text) == answer


def test_an_answer_that_the_rule_cannot_read_scores_nothing(tasks):
    assert judged(tasks["prime_factorization-0"], "I do not know") == (0.0, False)


def test_what_cannot_be_judged_is_said(sum_task):
    with pytest.raises(JudgeError, match=r"no metadata\['final_answer'\]"):
        judged(sum_task, None)
    foreign = sum_task.model_copy(update={"metadata": {"answer": "5"}})
    with pytest.raises(JudgeError, match=r"its metadata lacks .*dataset"):
        judged(foreign, "5")


@pytest.mark.parametrize("name", ["reasoning_gym", "reasoning_gym_laptop"])
def test_the_tutorial_names_data_sets_options_and_code_that_are_there(name):
    conf = TUTORIAL / f"{name}.yaml"
    loaded = load_config(conf)
    workflow = load_workflow(loaded.settings, module_folders(conf), where="test")
    assert workflow().name == "reasoning_agent"
    assert isinstance(make_judge(loaded.settings, loaded.config, ()), ReasoningGymJudge)
    for source in task_sources(loaded.settings.task_reader).values():
        (dataset,) = source.settings["datasets"]
        options = source.settings["options"].get(dataset, {})
        assert open_dataset(ItemRecipe(name=dataset, options=options, seed=1, size=1))[0][
            "question"
        ]
