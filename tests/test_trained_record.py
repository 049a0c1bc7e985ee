"""training/step_N.jsonl beside the episodes and the weights that it speaks of."""

import asyncio
import json
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

from astuner.backbone.episode_writer import EpisodeWriter
from astuner.backbone.trained_record import trained_line
from astuner.cli import main
from astuner.run_dir import RunDir, append_json_line, read_json_lines
from astuner.trajectory.record import episode_from_record
from astuner.trajectory.samples import TrainSample
from tests.test_local_run import (  # noqa: F401
    conf,
    finished_run,
    latest_run,
    taught_model,
)

SAMPLE = TrainSample(
    ids=(5, 7, 9, 2),
    mask=(False, False, True, True),
    logprobs=(0.0, 0.0, -0.1, -0.3),
    advantage=1 / 3,
    temperature=1.0,
    weight_version=4,
    task_id="t",
    episode_id="step1-0-0",
    sequence=2,
)


def trained_in(run: Path, step: int) -> list[dict]:
    return list(read_json_lines(RunDir(root=run).training_file(step)))


def sequences_in(run: Path, step: int) -> dict:
    """By episode and index, the sequences of a step's records."""
    records = read_json_lines(RunDir(root=run).episodes_file(step, "train"))
    episodes = map(episode_from_record, records)
    return {(e.episode_id, i): s for e in episodes for i, s in enumerate(e.sequences)}


def score(model, sequence, temperature: float) -> list[float]:
    """By the model's own forward pass, of the trained tokens."""
    ids_1T = torch.tensor([sequence.ids])
    with torch.no_grad():
        logits_TV = model(input_ids=ids_1T).logits[0, :-1].double() / temperature
    logprobs_T = torch.log_softmax(logits_TV, -1).gather(-1, ids_1T[0, 1:, None])[:, 0].tolist()
    return [p for p, is_trained in zip(logprobs_T, sequence.mask[1:], strict=True) if is_trained]


def started_from(run: Path) -> Path:
    return Path(yaml.safe_load((run / "config.yaml").read_text())["astuner"]["model"]["path"])


def change(**common: object) -> None:
    path = Path("adder.yaml")
    settings = yaml.safe_load(path.read_text())
    settings["astuner"]["trainer_common"] |= common
    path.write_text(yaml.safe_dump(settings))


def test_a_line_says_what_training_made_of_a_sample():
    line = trained_line(
        SAMPLE,
        step=1,
        weight=0.5,
        update=0,
        logprobs=(-0.12345678, float("nan")),
        reference_logprobs=(-0.1, -0.2),
    )
    assert json.loads(line) == {
        "format": 1,
        "step": 1,
        "episode_id": "step1-0-0",
        "sequence": 2,
        "advantage": 0.333333,
        "weight": 0.5,
        "temperature": 1.0,
        "update": 0,
        "weight_version": 4,
        "logprobs": [-0.123457, None],
        "reference_logprobs": [-0.1, -0.2],
    }
    assert line.endswith(b"\n") and line.count(b"\n") == 1


def test_what_is_not_known_is_null_and_without_a_reference_there_is_none():
    record = json.loads(trained_line(SAMPLE, step=1, weight=None, update=None, logprobs=None))
    assert (record["weight"], record["update"], record["logprobs"]) == (None, None, None)
    assert "reference_logprobs" not in record


def test_every_trained_sample_has_the_log_probabilities_of_the_weights_before_its_step(
    finished_run,  # noqa: F811
):
    weights = {2: finished_run / "checkpoints/step_1"}
    weights[1] = Path(
        yaml.safe_load((finished_run / "config.yaml").read_text())["astuner"]["model"]["path"]
    )
    for step, folder in weights.items():
        model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()
        sequences, lines = sequences_in(finished_run, step), trained_in(finished_run, step)
        assert lines and {line["step"] for line in lines} == {step}
        for line in lines:
            sequence = sequences[line["episode_id"], line["sequence"]]
            assert len(line["logprobs"]) == sequence.num_trained
            expected = score(model, sequence, line["temperature"])
            assert line["logprobs"] == pytest.approx(expected, abs=2e-4)
            assert line["update"] == 0 and line["weight"] > 0


def test_the_advantages_are_those_of_the_rewards_in_their_group(finished_run):  # noqa: F811
    episodes = {
        record["episode_id"]: record
        for record in read_json_lines(finished_run / "episodes/step_000001.jsonl")
    }
    groups: dict[str, list[float]] = {}
    for record in episodes.values():
        groups.setdefault(record["task"]["task_id"], []).append(record["verdict"]["reward"])
    lines = trained_in(finished_run, 1)
    for line in lines:
        record = episodes[line["episode_id"]]
        rewards = torch.tensor(groups[record["task"]["task_id"]])
        expected = (record["verdict"]["reward"] - rewards.mean()) / (rewards.std() + 1e-6)
        assert line["advantage"] == pytest.approx(expected.item(), abs=1e-3)
    has_spread = [len(set(rewards)) > 1 for rewards in groups.values()]
    assert len(lines) == 4 * sum(has_spread)


def test_the_second_of_two_updates_is_recorded_after_the_first(conf):  # noqa: F811
    change(mini_batch_num=2, total_training_steps=1, optim={"lr": 1e-2})
    assert main(["--conf", conf]) == 0
    run = latest_run()
    model = AutoModelForCausalLM.from_pretrained(started_from(run), dtype="float32").eval()
    sequences, is_before = sequences_in(run, 1), {0: [], 1: []}
    for line in trained_in(run, 1):
        found = score(model, sequences[line["episode_id"], line["sequence"]], line["temperature"])
        is_before[line["update"]].append(line["logprobs"] == pytest.approx(found, abs=2e-4))
    assert is_before[0] and all(is_before[0])
    assert is_before[1] and not any(is_before[1])


def test_a_reference_is_recorded_where_the_loss_measures_from_it(conf):  # noqa: F811
    change(use_kl_loss=True)
    assert main(["--conf", conf]) == 0
    first, second = trained_in(latest_run(), 1), trained_in(latest_run(), 2)
    for line in first:
        assert line["reference_logprobs"] == pytest.approx(line["logprobs"], abs=1e-5)
    assert any(line["reference_logprobs"] != line["logprobs"] for line in second)


def test_nothing_is_recorded_where_it_is_not_wanted(conf):  # noqa: F811
    change(record_training=False)
    assert main(["--conf", conf]) == 0
    assert not (latest_run() / "training").exists()
    assert (latest_run() / "episodes/step_000001.jsonl").exists()


def test_what_was_trained_after_the_step_of_a_resume_is_put_aside(tmp_path):
    run = RunDir(root=tmp_path)
    for step in (1, 2, 3):
        append_json_line(run.training_file(step), {"step": step})
    away = run.set_aside(after_step=2, is_logged=True)
    assert away is not None
    assert [path.name for path in run.training_files()] == [
        "step_000001.jsonl",
        "step_000002.jsonl",
    ]
    assert (away / "training/step_000003.jsonl").is_file()


def test_lines_of_training_are_on_the_disk_once_they_are_flushed(tmp_path):
    run = RunDir(root=tmp_path)
    lines = (trained_line(SAMPLE, step=3, weight=1.0, update=i, logprobs=()) for i in range(3))
    with EpisodeWriter(run) as writer:
        writer.write_trained(lines, step=3)
        asyncio.run(writer.flush())
        assert [line["update"] for line in read_json_lines(run.training_file(3))] == [0, 1, 2]
