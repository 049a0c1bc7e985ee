"""Tasks of several sources: read, checked, acted on, judged and counted each in its own way."""

import asyncio
import json
import pickle
from dataclasses import asdict, replace
from types import SimpleNamespace

import pytest
import yaml

from astuner.algorithm.step_metrics import rollout_metrics
from astuner.backbone.judge_process import ProcessGroupJudge, own_judges_of
from astuner.backbone.user_code import load_own_workflows, settings_of_own_judges
from astuner.backbone.validation import Validation
from astuner.backbone.worker_run import WorkerRun
from astuner.config.load import load_config, load_mapping
from astuner.config.usage import describe_unused
from astuner.errors import ConfigError, TaskReadError
from astuner.logview.view.meanings import meaning_of
from astuner.rollout.judging import Judging
from astuner.rollout.judging_by_source import JudgingBySource
from astuner.run_dir import RunDir
from astuner.task_judge import BaseJudge, GroupJudge
from astuner.task_reader import make_task_reader
from astuner.task_reader.mixture import in_turns
from astuner.task_reader.same_tasks import fingerprint
from astuner.task_reader.sources import shares_of, task_sources
from astuner.trajectory.attempt import Failure
from astuner.trajectory.episode import Group
from astuner.trajectory.record import episode_from_record, episode_to_record
from astuner.types import Task, WorkflowOutput, WorkflowTask
from astuner.workflow import Workflow
from tests.chats import make_chat
from tests.episodes import make_rules, run_episode
from tests.fakes import ScriptedEngine
from tests.runs import make_run
from tests.test_roles import make_episode


def load(sources, *, workflow="a->B", in_process=False, **section):
    settings = {
        "model": {"path": "some/model"},
        "rollout": {"agentscope_workflow": workflow},
        "task_judge": {"judge_in_process": in_process},
        "task_reader": {"type": "mixture", "mixture": {"sources": sources}, **section},
    }
    return load_mapping({"astuner": settings}, name="mixed.yaml")


def dummy(num_tasks, **changes):
    return {"type": "random_dummy", "random_dummy": {"num_tasks": num_tasks}, **changes}


def read(sources):
    settings = load(sources).settings.task_reader
    return make_task_reader("mixture", settings.mixture.model_dump())


# Settings


def test_a_source_is_completed_from_the_defaults():
    reader = load({"a": {"type": "random_dummy"}, "b": dummy(3, share=2, judge="j->J")})
    first, second = task_sources(reader.settings.task_reader).values()
    assert first.settings == {"num_tasks": 1000, "num_test_tasks": 0}
    assert (first.share, first.workflow) == (1.0, None)
    assert second.settings["num_tasks"] == 3
    assert (second.share, second.judge) == (2.0, "j->J")
    assert shares_of(reader.settings.task_reader) == {"a": 1.0, "b": 2.0}


def test_tasks_that_are_not_mixed_have_one_source_without_a_name():
    reader = load({}, type="random_dummy").settings.task_reader
    assert list(task_sources(reader)) == [""]
    assert shares_of(reader) == {"": 1.0}


def test_a_section_whose_keys_are_all_commented_out_means_the_defaults():
    reader = load({"a": {"type": "random_dummy", "random_dummy": None}}).settings.task_reader
    assert task_sources(reader)["a"].settings["num_tasks"] == 1000


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ({"type": "random_dumy"}, r"a\.type: found 'random_dumy' .* expected 'jsonl_dataset_file'"),
        ({"type": "mixture"}, r"a\.type = 'mixture' .* a source is no mixture itself"),
        (dummy(3, share=0), r"a\.share: found 0 .* greater than 0"),
        (dummy(3, share=-1.5), r"a\.share: found -1\.5 .* greater than 0"),
        (
            dummy(3, shere=1),
            r"a\.shere: unknown key; the nearest known key is \S+sources\.a\.share",
        ),
        ({"type": "random_dummy", "random_dumy": {}}, r"nearest known key is \S+\.a\.random_dummy"),
        (
            {"type": "random_dummy", "random_dummy": {"num_task": 3}},
            r"nearest known key is \S+\.a\.random_dummy\.num_tasks",
        ),
        (dummy(0), r"a\.random_dummy\.num_tasks: found 0"),
        ({"share": 1}, r"a\.type: has no value"),
        (3, r"sources\.a: found 3 \(int\), expected a section"),
    ],
)
def test_what_is_wrong_in_a_source_is_said_as_anywhere_else(source, said):
    with pytest.raises(ConfigError, match=said):
        load({"a": source})


def test_a_wrong_key_of_a_source_is_named_with_file_and_line(tmp_path):
    source = {"type": "random_dummy", "random_dummy": {"num_task": 3}}
    reader = {"type": "mixture", "mixture": {"sources": {"a": source}}}
    conf = tmp_path / "mixed.yaml"
    conf.write_text(yaml.safe_dump({"astuner": {"task_reader": reader}}))
    with pytest.raises(ConfigError, match=r"mixed\.yaml:7: astuner\.task_reader\.mixture\."):
        load_config(conf)


def test_a_mixture_of_nothing_is_refused():
    with pytest.raises(ConfigError, match="needs sources"):
        load({})


def test_a_source_whose_name_is_no_name_of_a_metric_is_refused():
    with pytest.raises(ConfigError, match=r"sources\.a/b: names of metrics"):
        load({"a/b": dummy(3)})


def test_a_section_that_a_source_does_not_read_is_said():
    loaded = load({"a": dummy(3, jsonl_dataset_file={"training": {"file_path": "x"}})})
    (line,) = describe_unused(loaded.explicit_keys, loaded.settings)
    assert line.endswith("sources.a.jsonl_dataset_file.training.file_path")


# Tasks


def test_tasks_carry_their_source_and_have_ids_of_their_own():
    reader = read({"a": dummy(3), "b": dummy(2)})
    tasks = reader.get_training_tasks()
    assert [task.source for task in tasks] == ["a"] * 3 + ["b"] * 2
    assert len({task.task_id for task in tasks}) == 5
    assert {task.task_id for task in tasks if task.source == "b"} == {"b/0", "b/1"}
    assert {task.id_in_source for task in tasks} == {"0", "1", "2"}


def test_the_first_validation_tasks_are_of_all_sources():
    tasks = read({"a": dummy(4), "b": dummy(2)}).get_validation_tasks()
    assert [task.source for task in tasks] == ["a", "b", "a", "b", "a", "a"]


def test_the_tasks_that_debug_begins_with_are_of_all_sources():
    tasks = in_turns(read({"a": dummy(3), "b": dummy(2)}).get_training_tasks())
    assert [task.task_id[0] for task in tasks] == ["a", "b", "a", "b", "a"]
    alone = [Task(main_query="q", task_id=str(number)) for number in range(4)]
    assert in_turns(alone) == alone


def test_what_a_reader_refuses_is_said_with_the_source(tmp_path):
    (tmp_path / "empty.jsonl").write_text("")
    file = {"training": {"file_path": str(tmp_path / "empty.jsonl")}}
    empty = {"type": "jsonl_dataset_file", "jsonl_dataset_file": file}
    with pytest.raises(TaskReadError, match=r"mixture\.sources\.b: .*holds no task"):
        read({"a": dummy(1), "b": empty}).get_training_tasks()
    with pytest.raises(ConfigError, match=r"mixture\.sources\.b: .*file_path is not set"):
        read({"a": dummy(1), "b": {"type": "jsonl_dataset_file"}})


def test_a_task_of_no_mixture_is_written_as_it_always_was():
    task = Task(main_query="q", task_id="1")
    assert "source" not in task.model_dump() and "source" not in json.loads(task.model_dump_json())
    assert Task.model_validate(task.model_dump()) == task
    mixed = task.model_copy(update={"source": "a"})
    assert Task.model_validate_json(mixed.model_dump_json()).source == "a"
    assert fingerprint([task]) != fingerprint([mixed])


# Workflows and judges


class Half(BaseJudge):
    def compute_reward(self, workflow_task, workflow_output):
        return 0.5, False


class Whole(BaseJudge):
    def compute_reward(self, workflow_task, workflow_output):
        return 1.0, True


class Ranks(GroupJudge):
    is_ready = False

    def prepare(self):
        self.is_ready = True

    def compute_rewards(self, workflow_tasks, workflow_outputs):
        return [(float(task.attempt), False) for task in workflow_tasks]


def saying(text):
    class Saying(Workflow):
        name: str = text

        async def execute(self, workflow_task, model_tuner):
            return WorkflowOutput(metadata={"said": text})

    return Saying


def attempt(source, number=0):
    task = Task(main_query="q", task_id=f"{source}/1", source=source)
    return WorkflowTask(
        task=task, episode_id=f"e{number}", step=1, attempt=number, is_validation=False
    )


def rules():
    made = make_rules(
        make_workflow=saying("others"),
        own_workflows={"a": saying("of a")},
        make_chat=lambda recorder, _task: make_chat(ScriptedEngine([])),
        judge=Half(None),
        config=SimpleNamespace(),
        timeout_seconds=5.0,
        judge_timeout_seconds=5.0,
        madness_reward=-1.0,
    )
    own = {
        name: Judging(judge(None), timeout_seconds=5.0, madness_reward=-1.0)
        for name, judge in {"a": Whole, "ranked": Ranks}.items()
    }
    return replace(made, judging=JudgingBySource(made.judging, own))


def test_each_source_has_its_workflow_and_its_judge():
    episodes = {name: asyncio.run(run_episode(attempt(name), rules())) for name in ("a", "b", "")}
    said = {name: episode.metadata["said"] for name, episode in episodes.items()}
    assert said == {"a": "of a", "b": "others", "": "others"}
    rewards = {name: episode.verdict.reward for name, episode in episodes.items()}
    assert rewards == {"a": 1.0, "b": 0.5, "": 0.5}


def test_a_source_may_have_its_attempts_compared_where_others_are_judged_alone():
    async def roll_out():
        tasks = [attempt(name).task for name in ("a", "ranked")]
        pool = rules().pool(max_parallel=4, max_failed_fraction=0.0)
        return await pool.run(
            tasks, num_repeat=2, step=1, is_validation=False, on_episode=lambda _: None
        )

    a, ranked = asyncio.run(roll_out())
    assert [episode.verdict.reward for episode in a.episodes] == [1.0, 1.0]
    assert [episode.verdict.reward for episode in ranked.episodes] == [0.0, 1.0]


def test_judges_that_compare_are_made_ready_where_they_compare():
    ranks = Ranks(None)
    judging = JudgingBySource(
        Judging(Half(None), timeout_seconds=5.0, madness_reward=0.0),
        {"a": Judging(ranks, timeout_seconds=5.0, madness_reward=0.0)},
    )
    asyncio.run(judging.prepare_alone())
    assert not ranks.is_ready
    asyncio.run(judging.prepare_comparing())
    assert ranks.is_ready


@pytest.fixture
def mine(tmp_path):
    """The path of a file with a workflow and a judge."""
    (tmp_path / "mine.py").write_text(
        "from tests.test_mixture import Ranks\n\n"
        "async def act(workflow_task, model_tuner):\n    return None\n"
    )
    return tmp_path / "mine.py"


def test_the_paths_of_sources_are_imported(mine):
    own = dummy(3, workflow="mine.py->act", judge="mine.py->Ranks")
    loaded, folders = load({"a": own, "b": dummy(3)}), (mine.parent,)
    workflows = load_own_workflows(loaded.settings, folders)
    assert {name: workflow().name for name, workflow in workflows.items()} == {"a": "act"}
    judges = own_judges_of(loaded.settings, loaded.config, folders)
    assert list(judges) == ["a"] and type(judges["a"]).__name__ == "Ranks"
    with pytest.raises(ConfigError, match="mine"):
        load_own_workflows(load({"a": dummy(3, workflow="mine.py->no")}).settings, folders)


def test_judges_of_sources_are_asked_in_processes_where_the_settings_say_so(mine):
    loaded = load({"a": dummy(3, judge=f"{mine}->Ranks")}, in_process=True)
    assert settings_of_own_judges(loaded.settings)["a"].task_judge.judge_protocol.endswith("Ranks")
    judges = own_judges_of(loaded.settings, loaded.config, ())
    assert isinstance(judges["a"], ProcessGroupJudge)


def test_a_worker_of_a_cluster_makes_them_anew(mine, tmp_path):
    own = dummy(3, workflow=f"{mine}->act", judge=f"{mine}->Ranks")
    loaded = load({"a": own}, workflow=f"{mine}->act")
    worker_run = WorkerRun.of(make_run(loaded, RunDir(root=tmp_path)))
    opened = pickle.loads(pickle.dumps(worker_run)).open()
    assert opened.own_workflows["a"]().name == "act"
    assert type(opened.own_judges["a"]).__name__ == "Ranks"


# Metrics and records


def group(source, *rewards):
    task = Task(main_query="q", task_id=f"{source}/1", source=source)
    return Group(task=task, episodes=tuple(episode(task, *one) for one in enumerate(rewards)))


def episode(task, number, reward):
    made = replace(make_episode(number, reward or 0.0), task=task)
    failure = Failure(kind="JudgeError", message="it broke", traceback="")
    return made if reward is not None else replace(made, verdict=None, failure=failure)


def test_metrics_tell_how_each_source_does():
    metrics = rollout_metrics([group("a", 1.0, 0.0), group("b", 1.0, None)], seconds=1.0)
    assert metrics["reward/mean"] == pytest.approx(2 / 3)
    assert metrics["reward/mean/source/a"] == 0.5
    assert metrics["reward/mean/source/b"] == 1.0
    assert metrics["rollout/episodes/source/b"] == 2
    assert metrics["rollout/failed_episodes/source/b"] == 1
    assert not any("/source/" in name for name in rollout_metrics([group("", 1.0)], seconds=1.0))


def test_a_validation_tells_it_too_and_is_remembered():
    episodes = [e for g in (group("a", 1.0, 0.0), group("b", None, None)) for e in g.episodes]
    validation = Validation.of(episodes, step=3, seconds=1.0)
    metrics = validation.metrics()
    assert metrics["validation/reward_mean/source/a"] == 0.5
    assert metrics["validation/failed_episodes/source/b"] == 2
    assert "validation/success_rate/source/b" not in metrics
    rate = metrics["validation/success_rate/source/a"]
    assert validation.line().endswith(f"\n  success {rate:.3f}  a")
    record = asdict(validation)
    assert Validation.from_record(record) == validation
    del record["by_source"]
    assert Validation.from_record(record).by_source == {}


def test_the_parts_of_rewards_are_told_of_each_source_in_steps_and_validations():
    def parted(source, *values):
        whole = group(source, *(1.0 for _ in values))
        episodes = tuple(
            replace(one, verdict=replace(one.verdict, parts={"short": value}))
            for one, value in zip(whole.episodes, values, strict=True)
        )
        return replace(whole, episodes=episodes)

    groups = [parted("a", 0.0, 0.5), parted("b", 1.0), group("c", 1.0)]
    step = rollout_metrics(groups, seconds=1.0)
    validation = Validation.of([e for g in groups for e in g.episodes], step=3, seconds=1.0)
    for metrics, name in (
        (step, "reward/part/short"),
        (validation.metrics(), "validation/part/short"),
    ):
        assert {metric: value for metric, value in metrics.items() if metric.startswith(name)} == {
            name: 0.5,
            f"{name}/source/a": 0.25,
            f"{name}/source/b": 1.0,
        }
    assert Validation.from_record(asdict(validation)) == validation


def test_the_viewer_explains_a_metric_of_a_source():
    assert meaning_of("validation/success_rate/source/sums").words == "solved in validation, sums"
    assert meaning_of("validation/success_rate/source/sums").shape == "rate"


def test_a_record_keeps_the_source():
    (made,) = group("a", 1.0).episodes
    record = json.loads(json.dumps(episode_to_record(made)))
    assert episode_from_record(record).task.source == "a"
    del record["task"]["source"]
    assert episode_from_record(record).task.source == ""
