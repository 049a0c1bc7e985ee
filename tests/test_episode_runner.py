"""A worker's episodes on their way to the hub: what comes back, and what ends a run."""

import asyncio
import json
from dataclasses import replace

import pytest
from transformers import AutoTokenizer

from astuner.backbone.cluster.episodes import EpisodeRunner
from astuner.backbone.cluster.runner_here import EngineHere
from astuner.config.load import load_mapping
from astuner.errors import ConfigError, LlmBudgetError
from astuner.inference.template import ChatTemplate
from astuner.rollout.judging import Judging
from astuner.run_dir import RunDir
from astuner.types import Task, WorkflowOutput
from astuner.workflow import Workflow
from tests.fakes import ByteTokenizer, ScriptedEngine
from tests.runs import make_run
from tests.test_hub import make_hub, make_settings
from tests.test_watch import HubHere
from tests.tiny_model import make_tiny_model

ENDING = [LlmBudgetError("used up"), ConfigError("a refused key")]


class Answering(Workflow):
    async def execute(self, workflow_task, model):
        return WorkflowOutput(metadata={"said": "x"})


class Breaking(Workflow):
    async def execute(self, workflow_task, model):
        raise ConfigError("no such tool")


class Scoring:
    """Gives each answer a better reward than the one before it."""

    def __init__(self):
        self._num_asked = 0

    async def compute_reward(self, workflow_task, workflow_output):
        self._num_asked += 1
        return float(self._num_asked), True


class Ending:
    def __init__(self, error):
        self._error = error

    async def compute_reward(self, workflow_task, workflow_output):
        raise self._error


class EndingOfMany:
    def __init__(self, error):
        self._error = error

    async def compute_rewards(self, workflow_tasks, workflow_outputs):
        raise self._error


def make_runner(folder, hub, *, judge, workflow_class=Answering):
    run = make_run(load_mapping(make_settings(), name="test"), RunDir(root=folder))
    run = replace(run, judge=judge, workflow_class=workflow_class)
    template = ChatTemplate(ByteTokenizer())
    return EpisodeRunner(run, HubHere(hub), ScriptedEngine([]), template, num_processes=1)


def rolled_out(runner, *attempts, group="a"):
    """What each attempt at one task returns or raises."""

    async def run():
        return await asyncio.gather(
            *(
                runner.run(
                    Task(main_query="q", task_id="1"),
                    group=group,
                    step=1,
                    attempt=attempt,
                    is_validation=False,
                )
                for attempt in attempts
            ),
            return_exceptions=True,
        )

    return asyncio.run(run())


@pytest.mark.parametrize("error", ENDING)
def test_what_a_judge_raises_to_end_the_run_is_known_to_the_hub(tmp_path, error):
    hub = make_hub()
    assert rolled_out(make_runner(tmp_path, hub, judge=Ending(error)), 0) == [error]
    assert hub.news().failure is error


@pytest.mark.parametrize("error", ENDING)
def test_what_a_comparing_judge_raises_to_end_the_run_is_raised_by_every_episode(tmp_path, error):
    hub, judge = make_hub(), EndingOfMany(error)
    hub._judging = Judging(judge, timeout_seconds=5, madness_reward=-1.0)
    assert rolled_out(make_runner(tmp_path, hub, judge=judge), 0, 1, 2) == [error] * 3
    assert hub.news().failure is error


def test_what_a_workflow_raises_to_end_the_run_is_known_to_the_hub(tmp_path):
    hub = make_hub()
    runner = make_runner(tmp_path, hub, judge=None, workflow_class=Breaking)
    (error,) = rolled_out(runner, 0)
    assert str(error) == "no such tool"
    assert hub.news().failure is error


def test_an_episode_that_is_run_again_returns_the_one_that_counts(tmp_path):
    hub = make_hub()
    runner = make_runner(tmp_path, hub, judge=Scoring())
    (first,), (second,) = rolled_out(runner, 0), rolled_out(runner, 0)
    assert (first.verdict.reward, second.verdict.reward) == (1.0, 1.0)
    ((_, _, line),) = hub.news().episodes
    assert json.loads(line)["verdict"]["reward"] == 1.0


def test_episodes_of_groups_whose_names_begin_alike_have_names_of_their_own(tmp_path):
    runner = make_runner(tmp_path, make_hub(), judge=Scoring())
    one, other = (rolled_out(runner, 0, group=f"0123456789{last}")[0] for last in "ab")
    assert one.episode_id != other.episode_id


class Preparing(Scoring):
    is_ready = False

    def prepare(self):
        self.is_ready = True


async def started_and_ended(runner):
    await runner.start()
    await runner._gateway.__aexit__(None, None, None)


def test_a_worker_has_its_judge_ready_when_it_starts(tmp_path):
    judge = Preparing()
    asyncio.run(started_and_ended(make_runner(tmp_path, make_hub(), judge=judge)))
    assert judge.is_ready


def test_a_worker_leaves_a_judge_that_compares_to_the_hub(tmp_path):
    class Comparing(Preparing):
        async def compute_rewards(self, workflow_tasks, workflow_outputs):
            return [(1.0, True) for _ in workflow_outputs]

    judge = Comparing()
    runner = make_runner(tmp_path, make_hub(), judge=judge)
    asyncio.run(started_and_ended(runner))
    assert not judge.is_ready
    hub = make_hub()
    hub._judging = Judging(judge, timeout_seconds=5, madness_reward=-1.0)
    asyncio.run(hub.prepare())
    assert judge.is_ready


def test_a_reply_ends_where_the_settings_of_the_model_itself_end_one(tmp_path):
    make_tiny_model(tmp_path)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 7]}))
    here = EngineHere(
        engine=ScriptedEngine([]),
        tokenizer=AutoTokenizer.from_pretrained(tmp_path),
        model=str(tmp_path),
        num_processes=1,
    )
    assert here.make_template().stop_ids == {2, 7}
