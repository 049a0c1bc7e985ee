"""Whole runs with an untrained opponent and with plain functions, on a real tiny model."""

import json
from pathlib import Path

import pytest
import yaml

pytest.importorskip("agentscope")
pytest.importorskip("torch")

import torch
from transformers import AutoModelForCausalLM

from astuner.cli import main
from astuner.run_dir import read_json_lines
from astuner.trajectory.record import episode_from_record
from tests.tiny_model import make_tiny_model

DUEL = f"{Path(__file__).parent}/agents/duel.py"


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("duel_model")
    make_tiny_model(folder)
    return folder


def run(folder, model, monkeypatch, *overrides, **rollout):
    """Exit code, and the run directory."""
    monkeypatch.chdir(folder)
    tasks = [
        {"main_query": f"Go {i}.", "task_id": str(i), "metadata": {"bonus": 1}} for i in (0, 1)
    ]
    (folder / "tasks.jsonl").write_text("".join(json.dumps(task) + "\n" for task in tasks))
    settings = {
        "model": {"path": str(model), "dtype": "float32"},
        "task_reader": {
            "type": "jsonl_dataset_file",
            "jsonl_dataset_file": {"training": {"file_path": "tasks.jsonl"}},
        },
        "data": {"train_batch_size": 2, "max_prompt_length": 300, "max_response_length": 300},
        "rollout": {
            "agentscope_workflow": f"{DUEL}->duel",
            "trainable_targets": ["player"],
            "num_repeat": 2,
            "temperature": 1.0,
            "max_model_len": 512,
            "max_response_length_in_one_turn": 8,
            "compute_madness_checklist": [],
            **rollout,
        },
        "trainer_common": {"total_training_steps": 2, "save_freq": 9, "optim": {"lr": 0.01}},
    }
    (folder / "duel.yaml").write_text(yaml.safe_dump({"astuner": settings}))
    code = main(["--conf", "duel.yaml", *overrides])
    return code, (Path("launcher_record") / "duel" / "latest").resolve()


def calls_of(run_dir, step):
    path = run_dir / f"episodes/step_{step:06d}.jsonl"
    episodes = [episode_from_record(record) for record in read_json_lines(path)]
    return [call for episode in episodes for call in episode.calls]


def logprobs_under(model, call):
    ids = torch.tensor([call.ids])
    with torch.no_grad():
        scores = model(input_ids=ids).logits[0].log_softmax(-1)
    start = len(call.prompt_ids)
    return [scores[start + i - 1, token].item() for i, token in enumerate(call.completion.ids)]


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("astuner.trainer_common.use_kl_loss=false",),
        ("astuner.model.lora.rank=4",),
        (
            "astuner.trainer_common.use_kl_loss=false",
            "astuner.rollout.untrained_model.model=reference",
        ),
    ],
    ids=["beside the divergence's copy", "own copy", "adapter", "kept from the beginning"],
)
def test_the_reference_stays_what_the_run_began_with(tmp_path, model, monkeypatch, overrides):
    code, run_dir = run(tmp_path, model, monkeypatch, *overrides)
    assert code == 0
    first, second = read_json_lines(run_dir / "metrics.jsonl")
    assert first["train/updates"] == second["train/updates"] == 1
    assert (second["rollout/calls"], second["rollout/untrained_calls"]) == (8, 4)
    assert (second["reward/player"], second["reward/mean"]) == (0.5, 0.5)
    start = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    calls = calls_of(run_dir, step=2)
    assert {(call.agent_name, call.is_trained) for call in calls} == {("ann", True), ("bob", False)}
    for call in calls:
        is_start = logprobs_under(start, call) == pytest.approx(
            list(call.completion.logprobs), abs=1e-4
        )
        assert is_start == (call.agent_name == "bob")


def test_only_the_trained_agents_tokens_are_trained(tmp_path, model, monkeypatch):
    _, run_dir = run(tmp_path, model, monkeypatch)
    first, _ = read_json_lines(run_dir / "metrics.jsonl")
    of_ann = [call for call in calls_of(run_dir, step=1) if call.agent_name == "ann"]
    assert first["train/tokens"] == sum(len(call.completion.ids) for call in of_ann)
    assert first["rollout/tokens"] == first["train/tokens"]


def test_a_mistyped_target_ends_the_run_and_names_the_tags(tmp_path, model, monkeypatch, capsys):
    code, _ = run(tmp_path, model, monkeypatch, trainable_targets=["plaier"])
    said = " ".join(capsys.readouterr().err.split())
    assert code == 2
    assert "'player' is not among the trainable_targets ['plaier'], and no model answers" in said


def test_a_mistyped_target_of_agents_that_all_have_models_ends_the_run(
    tmp_path, model, monkeypatch, capsys
):
    code, _ = run(
        tmp_path,
        model,
        monkeypatch,
        trainable_targets=["plaier"],
        untrained_model={"model": "reference"},
    )
    said = " ".join(capsys.readouterr().err.split())
    assert code == 2
    assert "no agent has the tag 'plaier'; the tags seen are opponent, player" in said


def test_an_empty_list_of_targets_is_refused_before_anything_is_loaded(
    tmp_path, model, monkeypatch, capsys
):
    code, run_dir = run(tmp_path, model, monkeypatch, trainable_targets=[])
    assert code == 2 and not run_dir.exists()
    assert "rollout.trainable_targets" in capsys.readouterr().err


def test_on_debug_the_reference_is_the_same_model_and_not_trained(tmp_path, model, monkeypatch):
    code, run_dir = run(tmp_path, model, monkeypatch, "--backbone=debug")
    assert code == 0
    trained = {(call.agent_name, call.is_trained) for call in calls_of(run_dir, step=1)}
    assert trained == {("ann", True), ("bob", False)}


def test_a_workflow_and_a_judge_as_agentscopes_tuner_has_them(tmp_path, model, monkeypatch):
    code, run_dir = run(
        tmp_path,
        model,
        monkeypatch,
        f"astuner.task_judge.judge_protocol={DUEL}->judge_length",
        agentscope_workflow=f"{DUEL}->scored",
        trainable_targets=None,
    )
    assert code == 0
    path = run_dir / "episodes/step_000001.jsonl"
    for record in read_json_lines(path):
        episode = episode_from_record(record)
        response = episode.metadata["response"]
        assert episode.verdict.reward == len(response) % 3 + 1
        assert episode.metadata["metrics"] == {"length": len(response)}
        assert episode.metadata["judge_metrics"] == {"half": episode.verdict.reward / 2}
