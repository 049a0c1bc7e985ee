"""Whole runs in AppWorld: server, client, agent, judge and two real updates of a tiny model."""

import asyncio
from pathlib import Path

import pytest

pytest.importorskip("agentscope")
pytest.importorskip("torch")

from astuner.cli import main
from astuner.env_service.client import EnvServiceEnvironments
from astuner.run_dir import RunDir, read_json_lines
from astuner.types import Task
from tests.appworld.conftest import ROOT, wait_until_no_world_is_open
from tests.appworld.test_appworld_world import section
from tests.taught_model import make_taught_model

pytestmark = pytest.mark.appworld

LAPTOP = ROOT / "tutorial" / "example_appworld" / "appworld_laptop.yaml"
KNOWN = {"aaaaaa1_1": "7", "aaaaaa1_2": "4"}
"""Tasks that the model has seen, with their answers."""

OLDER_YAML = """\
astuner:
  project_name: "appworld_older"
  task_reader:
    type: env_service
    env_service:
      env_type: "appworld"
      env_url: "{url}"
      env_action_preference: code
      training_split: train
      validation_split: dev
  task_judge:
    judge_type: customized_protocol
    judge_protocol: astuner.task_judge.env_service_as_judge->EnvServiceJudge
  model:
    path: {model}
  data:
    max_prompt_length: 1000
    max_response_length: 240
    train_batch_size: 4
  rollout:
    agentscope_workflow: older_appworld->ExampleAgentScopeLearnProtocol
    agentscope_disable_toolcalls: True
    max_env_worker: 16
    gamma: 1.0
    num_repeat: 4
    tensor_model_parallel_size: 1
    max_num_seqs: 16
    max_response_length_in_one_turn: 80
    max_model_len: 1240
    multi_turn:
      max_sample_per_task: 30
      max_steps: 3
      expected_steps: 1
    compute_madness_checklist:
      - "nonsense"
    agent_madness_termination: True
    agent_madness_reward: -1.0
  trainer_common:
    save_freq: 99999
    test_freq: 99999
    total_epochs: 50
    total_training_steps: 1
    nnodes: 1
    n_gpus_per_node: 8
    logger: console
    algorithm:
      adv_estimator: grpo
      use_kl_in_reward: False
  context_tracker:
    context_tracker_type: "linear"
    alien_llm_model: qwen3-235b-a22b-instruct-2507
    alien_llm_response_length: 512
    max_env_len: 4096

hydra:
  searchpath:
    - file://astuner/default_config
    - file://astuner/default_config/verl
    - file://astuner/default_config/trinity

defaults:
  - verl_default
  - trinity_default
  - astuner_default
  - _self_
"""
OLDER_WORKFLOW = """\
from agentscope.message import Msg

from astuner import ModelTuner, Workflow, WorkflowOutput, WorkflowTask


class ExampleAgentScopeLearnProtocol(Workflow):
    async def execute(self, workflow_task: WorkflowTask, model_tuner: ModelTuner) -> WorkflowOutput:
        from agentscope.agent import ReActAgent
        from agentscope.formatter import DashScopeChatFormatter
        from agentscope.memory import InMemoryMemory

        first, rest = workflow_task.task.init_messages[0], workflow_task.task.init_messages[1:]
        assert first["role"] == "system"
        agent = ReActAgent(
            name="Qwen",
            sys_prompt=first["content"],
            model=model_tuner,
            formatter=DashScopeChatFormatter(),
            memory=InMemoryMemory(),
            toolkit=None,
            print_hint_msg=False,
        )
        agent.set_console_output_enabled(False)
        said = [Msg(name=m.get("name", "user"), content=m["content"], role=m["role"]) for m in rest]
        config = model_tuner.config
        for _ in range(config.astuner.rollout.multi_turn.max_steps):
            reply = await agent(said)
            obs, reward, terminate, info = workflow_task.gym_env.step(
                action={"content": reply.content, "role": "assistant"}
            )
            said = Msg(name="assistant", content=obs, role="user")
            if terminate:
                break
            if model_tuner.get_context_tracker().context_overflow:
                break
        return WorkflowOutput(reward=None, metadata={})
"""


@pytest.fixture(scope="module")
def model(served, tmp_path_factory) -> Path:
    """One that ends a task with one of two answers."""
    folder = tmp_path_factory.mktemp("model")
    asked = asyncio.run(first_messages(served.url))
    conversations = [
        [*messages, {"role": "assistant", "content": f"```python\n{ends_with(answer)}\n```"}]
        for messages in asked
        for answer in KNOWN.values()
    ]
    texts = [message["content"] for messages in asked for message in messages]
    make_taught_model(folder, conversations, [], texts=texts)
    return folder


async def first_messages(url: str) -> list[list[dict[str, str]]]:
    environments = EnvServiceEnvironments.from_settings(section(url))
    found = []
    for task_id in KNOWN:
        task = Task(main_query="", task_id=task_id, env_type="appworld")
        instance = await environments.create(task, episode_id="e", seed=1)
        found.append([dict(message) for message in instance.messages])
        await instance.release()
    return found


def ends_with(answer: str) -> str:
    return f"apis.supervisor.complete_task(answer={answer})"


def tune(conf: Path, folder: Path, *flags: str, **settings: object) -> RunDir:
    arguments = ["--conf", str(conf), "--backbone=local", "--exp-dir", str(folder), *flags]
    assert main([*arguments, *(f"astuner.{key}={value}" for key, value in settings.items())]) == 0
    found = RunDir.latest(folder, conf.stem)
    assert found is not None
    return found


def check_records(run_dir: RunDir, *, step: int, num_episodes: int) -> None:
    """The judge's rewards are those of what the world said."""
    records = list(read_json_lines(run_dir.episodes_file(step, "train")))
    assert len(records) == num_episodes
    rewards = {}
    for record in records:
        if record["madness"] is not None:  # it was ended, and so never evaluated
            continue
        said = record["metadata"]["environment"]
        worth, verdict = said["evaluation"], record["verdict"]
        assert verdict["reward"] == (1.5 if worth == 1.0 else 0.5 * worth)
        assert verdict["is_success"] == (worth == 1.0)
        rewards.setdefault(record["task"]["task_id"], set()).add(verdict["reward"])
    for task_id in KNOWN:
        assert rewards[task_id] <= {0.0, 0.25, 1.5}
    assert any(1.5 in found for found in rewards.values())


SMALLER = {
    "model.dtype": "float32",
    "data.max_prompt_length": 1000,
    "data.max_response_length": 240,
    "rollout.max_model_len": 1240,
    "rollout.max_response_length_in_one_turn": 80,
    "rollout.num_repeat": 4,
    "rollout.val_kwargs.num_repeat": 1,
    "trainer_common.total_training_steps": 2,
    "trainer_common.val_before_train": "false",
    "trainer_common.test_freq": 2,
    "trainer_common.save_freq": 2,
}
"""Settings that fit the tutorial to the tiny model."""


def test_the_tutorial_makes_two_updates(served, model, tmp_path):
    url = {"task_reader.env_service.env_url": served.url}
    run_dir = tune(LAPTOP, tmp_path, **{"model.path": model, **SMALLER, **url})
    steps = list(read_json_lines(run_dir.metrics_file))
    assert [step["rollout/episodes"] for step in steps] == [16, 16]
    assert [step["train/updates"] for step in steps] == [1, 1]
    assert all(step["rollout/failed_episodes"] == 0 for step in steps)
    assert all(step["train/grad_norm"] > 0 for step in steps)
    assert run_dir.checkpoint_dir(2).is_dir()
    for number in (1, 2):
        check_records(run_dir, step=number, num_episodes=16)
    wait_until_no_world_is_open(served)


def test_a_run_may_bring_its_server(appworld_python, tiny_world, model, tmp_path, monkeypatch):
    monkeypatch.setenv("APPWORLD_PYTHON", str(appworld_python))
    monkeypatch.setenv("APPWORLD_ROOT", str(tiny_world))
    shorter = {"trainer_common.total_training_steps": 1, "trainer_common.test_freq": 1}
    settings = {"model.path": model, **SMALLER, **shorter}
    run_dir = tune(LAPTOP, tmp_path, "--with-appworld", **settings)
    check_records(run_dir, step=1, num_episodes=16)


def test_a_workflow_and_settings_of_the_older_system_train(served, model, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)  # its search path is relative to that
    (tmp_path / "older_appworld.py").write_text(OLDER_WORKFLOW)
    conf = tmp_path / "older_appworld.yaml"
    conf.write_text(OLDER_YAML.format(url=served.url, model=model))
    run_dir = tune(conf, tmp_path / "runs")
    (step,) = read_json_lines(run_dir.metrics_file)
    assert (step["rollout/episodes"], step["train/updates"]) == (16, 1)
    check_records(run_dir, step=1, num_episodes=16)
