"""The frozen weights that a divergence is measured from: the start's, or another stage's."""

import dataclasses
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("peft")

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from astuner.backbone.local.reference_weights import check_reference
from astuner.cli import main
from astuner.errors import ConfigError
from astuner.run_dir import read_json_lines
from astuner.training.memory import estimate_need, remedies
from tests.test_memory import ADAPTED, LARGE, PLAN
from tests.test_multi_agent_run import calls_of, logprobs_under
from tests.test_multi_agent_run import run as run_duel
from tests.test_seeds import model, run  # noqa: F401
from tests.tiny_model import make_tiny_model

FAST = ("trainer_common.optim.lr=0.05", "trainer_common.total_training_steps=1")
ANCHOR = "trainer_common.reference"
LATEST = "launcher_record/game/latest"


@pytest.fixture(scope="module")
def first_stage(model, tmp_path_factory) -> Path:  # noqa: F811
    """The checkpoint of a run that began at `model`."""
    with pytest.MonkeyPatch.context() as patch:
        made = run(tmp_path_factory.mktemp("stage"), model, patch, "full weights", *FAST)
    return made / "checkpoints/step_1"


def kl_of(run_dir: Path) -> list[float]:
    return [line["train/kl"] for line in read_json_lines(run_dir / "metrics.jsonl")]


def second_stage(folder, first, monkeypatch, kind, *overrides) -> list[float]:
    return kl_of(run(folder, first, monkeypatch, kind, *FAST, *overrides))


@pytest.fixture(scope="module")
def anchored(model, first_stage, tmp_path_factory) -> Path:  # noqa: F811
    """The folder of a second stage of full weights that measures from `model`, made once."""
    folder = tmp_path_factory.mktemp("anchored")
    with pytest.MonkeyPatch.context() as patch:
        run(folder, first_stage, patch, "full weights", *FAST, f"{ANCHOR}={model}")
    return folder


def test_a_second_stage_measures_from_its_start_or_from_the_first_ones(
    tmp_path, first_stage, anchored, monkeypatch
):
    (from_start,) = second_stage(tmp_path, first_stage, monkeypatch, "full weights")
    (from_anchor, *_) = kl_of(anchored / LATEST)
    assert from_start == pytest.approx(0.0, abs=1e-6)
    assert from_anchor > 1e-3


def test_a_second_stage_with_an_adapter_does_too(
    tmp_path,
    model,  # noqa: F811
    first_stage,
    monkeypatch,
):
    # An adapter's dropout is on in training, and counts in the divergence of the first update.
    kind, plain = "adapter with dropout", "model.lora.dropout=0"
    (from_start,) = second_stage(tmp_path / "a", first_stage, monkeypatch, kind, plain)
    anchor = f"{ANCHOR}={model}"
    (from_anchor,) = second_stage(tmp_path / "b", first_stage, monkeypatch, kind, plain, anchor)
    assert from_start == pytest.approx(0.0, abs=1e-6)
    assert from_anchor > 1e-3


def test_a_run_that_goes_on_keeps_its_reference_and_takes_no_other(
    tmp_path,
    model,  # noqa: F811
    first_stage,
    anchored,
    monkeypatch,
    capsys,
):
    args = first_stage, monkeypatch, "full weights", *FAST, f"{ANCHOR}={model}"
    two = "trainer_common.total_training_steps=2"
    whole = run(tmp_path, *args, two)
    assert kl_of(run(anchored, *args, two, "--resume")) == kl_of(whole)
    assert main(["--conf", "game.yaml", "--resume", "latest", f"astuner.model.path={first_stage}"])
    assert "trainer_common.reference: " in capsys.readouterr().err


def test_a_path_that_is_the_start_needs_no_second_copy(tmp_path, model, monkeypatch, capsys):  # noqa: F811
    (tmp_path / "link").symlink_to(model)
    anchor, kind = f"{ANCHOR}=link", "adapter with dropout"
    nobody = "rollout.untrained_model.model=null"
    second_stage(tmp_path, model, monkeypatch, kind, anchor, nobody)
    (memory,) = (line for line in capsys.readouterr().err.splitlines() if "memory: " in line)
    assert "weights" in memory and "reference" not in memory


def test_agents_that_the_reference_answers_are_answered_by_that_model(
    tmp_path,
    model,  # noqa: F811
    first_stage,
    monkeypatch,
):
    for use_kl in ("true", "false"):
        code, run_dir = run_duel(
            tmp_path,
            model,
            monkeypatch,
            f"astuner.trainer_common.reference={first_stage}",
            f"astuner.trainer_common.use_kl_loss={use_kl}",
        )
        assert code == 0
        frozen = AutoModelForCausalLM.from_pretrained(first_stage, dtype=torch.float32).eval()
        for call in calls_of(run_dir, step=2):
            expected = pytest.approx(list(call.completion.logprobs), abs=1e-4)
            assert (logprobs_under(frozen, call) == expected) == (call.agent_name == "bob")


def test_a_reference_of_other_tokens_is_refused_before_anything_is_loaded(tmp_path, model):  # noqa: F811
    make_tiny_model(tmp_path / "other", texts=["zebra " * 99])
    with pytest.raises(ConfigError, match=r"has other tokens than .* alone; .* 'start'"):
        check_reference(str(tmp_path / "other"), str(model), max_model_len=64)


def test_a_reference_of_a_shorter_context_is_refused(tmp_path, model):  # noqa: F811
    make_tiny_model(tmp_path / "short", max_positions=32)
    with pytest.raises(ConfigError, match=r"reference: .* at most 32 tokens .* is 64; lower that"):
        check_reference(str(tmp_path / "short"), str(model), max_model_len=64)


def test_a_reference_that_is_not_there_is_named_as_such(tmp_path, model):  # noqa: F811
    with pytest.raises(ConfigError, match=r"^trainer_common\.reference: .* no folder"):
        check_reference(str(tmp_path / "nowhere/at/all"), str(model), max_model_len=64)


def test_a_reference_may_have_another_shape(tmp_path, model, monkeypatch):  # noqa: F811
    config = AutoModelForCausalLM.from_pretrained(model).config
    config.num_hidden_layers, config.layer_types = 1, ["full_attention"]
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "small")
    AutoTokenizer.from_pretrained(model).save_pretrained(tmp_path / "small")
    anchor = f"{ANCHOR}=small"
    (kl,) = second_stage(tmp_path, model, monkeypatch, "full weights", anchor)
    assert kl > 0


def test_a_reference_of_its_own_is_counted_with_its_own_size():
    plan = dataclasses.replace(PLAN, reference_parameters=3 * 10**9)
    assert estimate_need(LARGE, plan).lasting["reference"] == 6 * 10**9
    # An adapter makes a copy needless, and another model not.
    found = remedies(LARGE, plan, 19 * 10**9, with_adapter=ADAPTED)
    assert any(r.plan.has_reference for r in found if r.text.startswith("model.lora.rank"))
