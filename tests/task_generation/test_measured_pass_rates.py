"""How often a model solves tasks: real rollouts on a server with a script, and on a tiny model."""

import asyncio
import gc
from collections import Counter

import pytest
import yaml

pytest.importorskip("agentscope")  # whose ChatResponse the model's replies are

from astuner.backbone.measured_pass_rates import open_pass_rate_meter
from astuner.config.load import load_config
from astuner.errors import BackboneError
from astuner.run_dir import RunDir, read_json_lines
from astuner.types import Task
from tests.llm_server import refuses, says, serving
from tests.runs import make_run

ANSWERER = """
from astuner import Workflow, WorkflowOutput

class Answerer(Workflow):
    name: str = "answerer"

    async def execute(self, workflow_task, model_tuner):
        asked = [{"role": "user", "content": workflow_task.task.main_query}]
        reply = await model_tuner(asked)
        text = "".join(block["text"] for block in reply.content if block["type"] == "text")
        return WorkflowOutput(metadata={"final_answer": text})

class Even(Answerer):
    # Solves what it answers with an even number of letters.

    async def execute(self, workflow_task, model_tuner):
        output = await super().execute(workflow_task, model_tuner)
        is_even = len(output.metadata["final_answer"]) % 2 == 0
        return WorkflowOutput(reward=float(is_even), is_success=is_even)
"""
NUM_ATTEMPTS = 4


def task(question, **metadata):
    return Task(main_query=question, task_id=question, metadata={"answer": "yes", **metadata})


def run_of(folder, *, pass_rate, workflow="Answerer", **settings):
    (folder / "answerer.py").write_text(ANSWERER)
    given = {
        "model": {"path": "small", "dtype": "float32"},
        "rollout": {
            "agentscope_workflow": f"answerer->{workflow}",
            "compute_madness_checklist": [],
        },
        "task_judge": {"judge_protocol": "astuner.task_judge.exact_match_judge->ExactMatchJudge"},
        "task_reader": {
            "type": "random_dummy",
            "data_generation": {"pass_rate": {"num_attempts": NUM_ATTEMPTS, **pass_rate}},
        },
    }
    for section, values in settings.items():
        given[section] = {**given.get(section, {}), **values} if section in given else values
    conf = folder / "conf.yaml"
    conf.write_text(yaml.safe_dump({"astuner": given}))
    return make_run(load_config(conf), RunDir(root=folder / "never_made"))


def measure(run, folder, *batches, watch=lambda done, total: None):
    """The rates of each batch, by one meter."""

    async def rates():
        async with open_pass_rate_meter(run, folder=folder, watch=watch) as meter:
            return [await meter.measure(batch) for batch in batches]

    return asyncio.run(rates())


def counted(rates):
    return [(rate.num_solved, rate.num_judged) for rate in rates]


def by_question(**num_right):
    """A server that says yes to a question so often, and no behind that; None: it refuses."""
    asked = Counter()

    def answer(body):
        question = body["messages"][-1]["content"]
        asked[question] += 1
        right = num_right[question]
        if right is None:
            return refuses(400, "no such thing")
        return says("yes" if asked[question] <= right else "no")

    return serving(answer)


def test_a_rate_is_the_share_of_attempts_that_the_judge_takes_for_solved(tmp_path):
    told = []
    with by_question(never=0, once=1, always=4) as server:
        run = run_of(tmp_path, pass_rate={"base_url": server.base_url, "model": "small"})
        (rates,) = measure(
            run,
            tmp_path,
            [task("once"), task("always"), task("never")],
            watch=lambda done, total: told.append((done, total)),
        )
    assert counted(rates) == [(1, 4), (4, 4), (0, 4)]
    assert [rate.value for rate in rates] == [0.25, 1.0, 0.0]
    assert told == [(done, 12) for done in range(1, 13)]
    (asked,) = {(body["model"], body["temperature"]) for body in server.requests}
    assert asked == ("small", run.settings.rollout.temperature)


def test_attempts_that_fail_count_neither_way(tmp_path):
    with by_question(broken=None, twice=2, always=4) as server:
        run = run_of(tmp_path, pass_rate={"base_url": server.base_url, "model": "small"})
        (rates,) = measure(run, tmp_path, [task("broken"), task("twice"), task("always")])
    assert [rate.value for rate in rates] == [None, 0.5, 1.0]


def test_one_task_alone_may_fail_wholly(tmp_path):
    with by_question(broken=None, always=4) as server:
        run = run_of(tmp_path, pass_rate={"base_url": server.base_url, "model": "small"})
        rates = measure(run, tmp_path, [task("always")], [task("broken")])
    assert [counted(batch) for batch in rates] == [[(4, 4)], [(0, 0)]]


def test_too_many_failures_end_it_with_their_reason(tmp_path):
    with by_question(broken=None, cracked=None, always=4) as server:
        run = run_of(tmp_path, pass_rate={"base_url": server.base_url, "model": "small"})
        tasks = [task("broken"), task("cracked"), task("always")]
        with pytest.raises(BackboneError, match=r"max_failed_fraction.*commonest.*no such thing"):
            measure(run, tmp_path, tasks)


def test_nothing_is_loaded_or_written_where_nothing_is_measured(tmp_path):
    run = run_of(tmp_path, pass_rate={}, model={"path": str(tmp_path / "no_such_model")})
    assert measure(run, tmp_path, []) == [[]]
    assert not (tmp_path / "measuring").exists()


def test_the_episodes_can_be_looked_at(tmp_path):
    with by_question(once=1, always=4) as server:
        run = run_of(tmp_path, pass_rate={"base_url": server.base_url, "model": "small"})
        measure(run, tmp_path, [task("once")], [task("always")])
    run_dir = RunDir.latest(tmp_path, "measuring")
    assert run_dir is not None and not run.run_dir.root.exists()
    records = list(read_json_lines(run_dir.episodes_file(1, "train")))
    assert len(records) == len({record["episode_id"] for record in records}) == 8


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory):
    pytest.importorskip("torch")
    from tests.tiny_model import make_tiny_model

    folder = tmp_path_factory.mktemp("tiny")
    make_tiny_model(folder)
    return folder


def run_on(model, folder):
    """Of few tokens, so that it takes a moment."""
    return run_of(
        folder,
        workflow="Even",
        pass_rate={"num_attempts": 16},
        model={"path": str(model)},
        rollout={"max_response_length_in_one_turn": 4, "max_model_len": 512},
        data={"max_prompt_length": 128, "max_response_length": 128},
    )


TASKS = [task("a", turn=3), task("b", turn=4), task("c", turn=9)]


def test_tasks_have_the_same_rates_whatever_was_measured_before(tiny_model, tmp_path):
    run = run_on(tiny_model, tmp_path)
    batches = [TASKS[:2], TASKS[2:], TASKS[2:], TASKS[:2]]
    first, behind, *again = measure(run, tmp_path, *batches)
    assert again == [behind, first]
    assert all(rate.num_judged == 16 for rate in (*first, *behind))
    assert len({rate.num_solved for rate in (*first, *behind)}) > 1  # which no constant gives


def test_the_weights_are_gone_behind_it(tiny_model, tmp_path):
    from transformers import PreTrainedModel

    def models():
        gc.collect()
        return sum(issubclass(type(found), PreTrainedModel) for found in gc.get_objects())

    async def counts():
        async with open_pass_rate_meter(
            run_on(tiny_model, tmp_path), folder=tmp_path, watch=lambda done, total: None
        ) as meter:
            await meter.measure(TASKS[:1])
            during = models()
        return during, models()

    before = models()
    during, after = asyncio.run(counts())
    assert during > before == after
