"""Checkpoints of clusters: what is kept as one, and what is refused since it is not the policy."""

import json
import math
from dataclasses import replace

import pytest

pytest.importorskip("torch")

import torch
from transformers import AutoModelForCausalLM

from astuner.backbone.cluster.export import (
    export_checkpoint,
    largest_gap,
    logprobs_from,
    policy_gap,
)
from astuner.backbone.cluster.messages import Probe, SavedState
from astuner.errors import BackboneError
from astuner.run_dir import RunDir
from tests.tiny_model import make_tiny_model

IDS = tuple(range(3, 43))
FIRST, TEMPERATURE = 4, 0.7


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("engine") / "huggingface"
    make_tiny_model(folder)
    return folder


@pytest.fixture(scope="module")
def probe(weights):
    """By plain transformers, token by token."""
    model = AutoModelForCausalLM.from_pretrained(weights).eval()
    logprobs = []
    for end in range(FIRST, len(IDS)):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([IDS[:end]])).logits[0, -1] / TEMPERATURE
        logprobs.append(float(torch.log_softmax(logits, -1)[IDS[end]]))
    return Probe(ids=IDS, first=FIRST, logprobs=tuple(logprobs), temperature=TEMPERATURE)


def saved(weights, *probes, step=3):
    return SavedState(step=step, weights=str(weights), probes=probes)


def test_the_policys_own_weights_have_no_gap(weights, probe):
    assert policy_gap(weights, [probe], dtype="float32") == pytest.approx(0.0, abs=1e-5)


def test_what_is_the_policy_becomes_a_checkpoint_that_transformers_loads(weights, probe, tmp_path):
    run_dir = RunDir(root=tmp_path)
    said = export_checkpoint(saved(weights, probe), run_dir, dtype="float32", keep=None)
    assert str(run_dir.checkpoint_dir(3)) in said
    AutoModelForCausalLM.from_pretrained(run_dir.checkpoint_dir(3))


def test_a_checkpoint_is_rounded_as_the_policy_that_sampled_is(weights, tmp_path):
    masters = AutoModelForCausalLM.from_pretrained(weights, dtype=torch.float32)
    masters.save_pretrained(folder := tmp_path / "masters", max_shard_size="100KB")
    run_dir = RunDir(root=tmp_path)
    export_checkpoint(saved(folder), run_dir, dtype="bfloat16", keep=None)
    checkpoint = run_dir.checkpoint_dir(3)
    policy = AutoModelForCausalLM.from_pretrained(checkpoint)
    assert policy.dtype == torch.bfloat16
    for kept, master in zip(policy.parameters(), masters.parameters(), strict=True):
        assert torch.equal(kept, master.to(torch.bfloat16))
    index = json.loads((checkpoint / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 2 * sum(p.numel() for p in policy.parameters())


def test_probes_of_rounded_weights_are_compared_with_rounded_weights(weights, tmp_path):
    read = AutoModelForCausalLM.from_pretrained(weights, dtype=torch.bfloat16).eval()
    found = logprobs_from(read, IDS, first=FIRST, temperature=TEMPERATURE)
    probe = Probe(ids=IDS, first=FIRST, logprobs=tuple(found.tolist()), temperature=TEMPERATURE)
    run_dir = RunDir(root=tmp_path)
    said = export_checkpoint(
        saved(weights, probe), run_dir, dtype="float32", keep=None, probed_as="bfloat16"
    )
    assert "0.0000 nats" in said
    kept = AutoModelForCausalLM.from_pretrained(run_dir.checkpoint_dir(3))
    assert kept.dtype == torch.float32


@pytest.mark.parametrize("wrong", [-1.5, math.nan])
def test_weights_that_are_not_the_policys_are_no_checkpoint(weights, probe, tmp_path, wrong):
    other = replace(probe, logprobs=tuple(value + wrong for value in probe.logprobs))
    run_dir = RunDir(root=tmp_path)
    with pytest.raises(BackboneError, match="is not the policy"):
        export_checkpoint(saved(weights, other), run_dir, dtype="float32", keep=None)
    assert run_dir.checkpoints() == {}


def test_few_tokens_may_be_further_away_than_many(probe):
    few = replace(probe, ids=IDS[: FIRST + 1], logprobs=probe.logprobs[:1])
    assert largest_gap([few]) > 1.0 > largest_gap([probe]) > largest_gap([probe] * 100) > 0.2


def test_a_folder_that_is_not_there_names_what_must_be_shared(tmp_path):
    with pytest.raises(BackboneError, match="a folder that all of them share"):
        export_checkpoint(
            saved(tmp_path / "elsewhere"), RunDir(root=tmp_path), dtype="float32", keep=None
        )


def test_only_the_newest_and_the_best_stay(weights, probe, tmp_path):
    run_dir = RunDir(root=tmp_path)
    for step in (1, 2, 3):
        export_checkpoint(saved(weights, probe, step=step), run_dir, dtype="float32", keep=2)
        run_dir.point_best_to(run_dir.checkpoint_dir(1))
    assert list(run_dir.checkpoints()) == [3, 2, 1]  # the best stays too
    export_checkpoint(saved(weights, probe, step=4), run_dir, dtype="float32", keep=1)
    assert list(run_dir.checkpoints()) == [4, 1]
