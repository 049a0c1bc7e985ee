"""The algorithms in whole runs and training steps: what a YAML can ask for does what it says."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

pytest.importorskip("agentscope")

from astuner.cli import main
from astuner.run_dir import read_json_lines
from astuner.training.scored import StepScores
from astuner.training.step_record import StepRecord
from tests.test_local_run import latest_run, taught_model, write_conf  # noqa: F401
from tests.test_trainer import SETTINGS, bandit_samples, on_policy, tiny_model, trainer

OWN = """
import torch
from astuner.algorithm.loss import TokenLoss

def halved(groups):
    return [[reward / 2 for reward in rewards] for rewards in groups]

def plain(inputs):
    return TokenLoss(
        loss_N=-inputs.advantages_N * inputs.logprobs_N,
        is_clipped_N=torch.zeros_like(inputs.advantages_N, dtype=torch.bool),
    )

def too_few(inputs):
    return TokenLoss(loss_N=inputs.logprobs_N[:1], is_clipped_N=inputs.logprobs_N[:1] > 0)

number = 3
"""


def run(folder: Path, model: Path, monkeypatch, **algorithm: object) -> tuple[int, list[dict]]:
    """Exit code and metrics of two steps with such `trainer_common.algorithm`."""
    monkeypatch.chdir(folder)
    write_conf(folder, model)
    (folder / "own.py").write_text(OWN)
    conf = folder / "adder.yaml"
    settings = yaml.safe_load(conf.read_text())
    settings["astuner"]["trainer_common"] |= {"val_before_train": False, "test_freq": 99}
    settings["astuner"]["trainer_common"]["algorithm"] = algorithm
    conf.write_text(yaml.safe_dump(settings))
    code = main(["--conf", "adder.yaml"])
    metrics = latest_run() / "metrics.jsonl"
    return code, list(read_json_lines(metrics)) if metrics.exists() else []


@pytest.mark.parametrize(
    "algorithm",
    [
        {"adv_estimator": "rloo", "policy_loss": "gspo", "loss_agg_mode": "seq-mean-token-mean"},
        {"adv_estimator": "reinforce_plus_plus", "policy_loss": "cispo"},
        {"policy_loss": "reinforce", "rollout_importance_weight": "truncated"},
        {"adv_estimator": "dr_grpo", "loss_agg_mode": "seq-mean-token-sum-norm"},
        {"adv_estimator": "own.py->halved", "policy_loss": "own.py->plain"},
    ],
    ids=lambda algorithm: "+".join(map(str, algorithm.values())),
)
def test_a_yaml_chooses_the_algorithm(taught_model, tmp_path, monkeypatch, algorithm):  # noqa: F811
    code, metrics = run(tmp_path, taught_model, monkeypatch, **algorithm)
    assert code == 0
    assert sum(line["train/updates"] for line in metrics) > 0
    assert all(line["train/grad_norm"] > 0 for line in metrics if line["train/updates"])


@pytest.mark.parametrize(
    ("algorithm", "said"),
    [
        ({"policy_loss": "own.py->missing"}, "missing"),
        ({"policy_loss": "own.py->number"}, "is int, expected a function"),
        ({"policy_loss": "own.py->too_few"}, "policy loss too_few: loss_N has shape (1,)"),
        ({"adv_estimator": "gpro"}, "expected grpo, dr_grpo, rloo"),
    ],
)
def test_an_algorithm_that_cannot_be_used_is_named(
    taught_model,  # noqa: F811
    tmp_path,
    monkeypatch,
    capsys,
    algorithm,
    said,
):
    code, _ = run(tmp_path, taught_model, monkeypatch, **algorithm)
    assert code != 0
    assert said in " ".join(capsys.readouterr().err.split())


def test_dynamic_sampling_replaces_groups_without_spread(
    taught_model,  # noqa: F811
    tmp_path,
    monkeypatch,
):
    code, metrics = run(tmp_path, taught_model, monkeypatch, dynamic_sampling_max_batches=3)
    assert code == 0
    for line in metrics:
        path = latest_run() / f"episodes/step_{line['step']:06d}.jsonl"
        names = [json.loads(text)["episode_id"] for text in path.read_text().splitlines()]
        assert len(set(names)) == len(names) == line["rollout/episodes"]
        assert line["rollout/episodes"] >= 8 + 4 * line["rollout/refills"]
        assert line["rollout/flat_groups"] == 0 or line["rollout/refills"] == 3


def test_penalties_change_what_is_trained_and_not_the_judges_reward(
    taught_model,  # noqa: F811
    tmp_path,
    monkeypatch,
):
    code, metrics = run(
        tmp_path,
        taught_model,
        monkeypatch,
        use_kl_in_reward=True,
        overlong_buffer_length=700,
        overlong_penalty_factor=5.0,
    )
    assert code == 0
    # Every length has a penalty of its own, so that no group is flat whatever the judge said.
    assert all(line["train/updates"] == 1 for line in metrics)
    assert all(0 <= line["reward/mean"] <= 1 for line in metrics)


def test_gspo_gives_every_token_of_a_sample_the_same_ratio() -> None:
    """Against the gradient of the formula written out, sample by sample."""
    model = tiny_model()
    agreeing = on_policy(model, bandit_samples(model))
    samples = [replace(s, logprobs=tuple(0.95 * x for x in s.logprobs)) for s in agreeing]
    settings = replace(
        SETTINGS,
        policy_loss="gspo",
        loss_aggregation="seq-mean-token-mean",
        clip_low=0.9,
        clip_high=9.0,
        counts_by_episode=False,
    )
    expected = torch.zeros(())
    for sample in samples:
        ids = torch.tensor([sample.ids])
        logits = model(ids).logits[0, :-1] / sample.temperature
        logprobs = logits.log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
        mask = torch.tensor(sample.mask[1:])
        old = torch.tensor(sample.logprobs[1:])
        ratio = (logprobs - old)[mask].mean().exp()
        expected = expected - sample.advantage * ratio / len(samples)
    expected.backward()
    wanted = {n: p.grad.clone() for n, p in model.named_parameters()}
    model.zero_grad()
    policy_trainer = trainer(model, settings)
    mini_batch = policy_trainer._packed(samples)
    record = StepRecord(
        num_sample_tokens=0, num_packed_tokens=0, device=model.device, progress=None
    )
    policy_trainer._accumulate(mini_batch, record, StepScores())
    found = policy_trainer._optimizer.gradients
    assert found.keys() == wanted.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, wanted[name], atol=1e-5, rtol=1e-4)


def test_importance_weights_of_a_sampler_that_agrees_are_one() -> None:
    model = tiny_model()
    samples = on_policy(model, bandit_samples(model))
    metrics = trainer(model, replace(SETTINGS, importance_weight="truncated")).train_step(samples)
    assert metrics["train/importance_weight_mean"] == pytest.approx(1.0, abs=1e-4)
    assert metrics["train/importance_bounded_fraction"] == 0.0


def test_masked_tokens_teach_nothing() -> None:
    model = tiny_model()
    before = {n: p.clone() for n, p in model.named_parameters()}
    far = [
        replace(
            s,
            logprobs=tuple(x - 5.0 if m else 0.0 for x, m in zip(s.logprobs, s.mask, strict=True)),
        )
        for s in on_policy(model, bandit_samples(model))
    ]
    settings = replace(SETTINGS, importance_weight="masked")
    settings = replace(settings, optimizer=replace(settings.optimizer, weight_decay=0.0))
    metrics = trainer(model, settings).train_step(far)
    assert metrics["train/importance_bounded_fraction"] == 1.0
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())


def test_with_weights_the_ratio_is_against_the_policy_at_the_start_of_the_step() -> None:
    model = tiny_model()
    samples = on_policy(model, bandit_samples(model))
    far = [
        replace(
            s,
            logprobs=tuple(x - 1.0 if m else 0.0 for x, m in zip(s.logprobs, s.mask, strict=True)),
        )
        for s in samples
    ]
    settings = replace(SETTINGS, mini_batch_num=2)
    clipped = trainer(tiny_model(), settings).train_step(far)["train/clip_fraction"]
    weighted = replace(settings, importance_weight="truncated")
    corrected = trainer(tiny_model(), weighted).train_step(far)["train/clip_fraction"]
    assert clipped > 0.3 > corrected
