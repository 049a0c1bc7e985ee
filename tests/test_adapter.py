"""LoRA: what is trained, what stays, what is saved."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, PreTrainedModel

pytest.importorskip("peft")

from peft import PeftModel

from astuner.cli import main
from astuner.errors import BackboneError, ConfigError
from astuner.models.adapter import (
    AdapterSettings,
    adapter_off,
    attach_adapter,
    has_adapter,
    merged_weights,
)
from astuner.models.checkpoint import save_checkpoint
from astuner.models.load import load_policy
from astuner.run_dir import read_json_lines
from astuner.training.packing import pack
from astuner.training.score import score_batch
from tests.test_local_run import latest_run, taught_model, write_conf  # noqa: F401
from tests.test_trainer import SETTINGS, bandit_samples, on_policy, tiny_model, trainer
from tests.tiny_model import make_tiny_model

LORA = AdapterSettings(rank=4, alpha=None, target_modules=None, dropout=0.0)
FAST = replace(SETTINGS, optimizer=replace(SETTINGS.optimizer, learning_rate=1e-2))


def lora_model(**options: object) -> PreTrainedModel:
    model = tiny_model(**options)
    attach_adapter(model, LORA)
    return model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_only_the_adapter_is_trained(dtype: torch.dtype) -> None:
    model = lora_model(dtype=dtype)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    policy_trainer = trainer(model, FAST)
    for _ in range(2):
        policy_trainer.train_step(bandit_samples(model))
    changed = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert changed and all("lora_" in name for name in changed)
    assert {name.rpartition("/")[2] for name in policy_trainer.tensors()} >= changed


def test_scores_in_packed_form_are_those_of_the_model_with_its_adapter() -> None:
    model = lora_model()
    trainer(model, FAST).train_step(bandit_samples(model))
    sample = bandit_samples(model)[0]
    (batch,) = pack([sample], max_tokens=1000)
    packed = score_batch(model, batch, torch.full((len(batch.target_N),), sample.temperature))
    ids = torch.tensor([sample.ids])
    logits = model(ids).logits[0, :-1] / sample.temperature
    alone = logits.log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
    mask = torch.tensor(sample.mask[1:])
    torch.testing.assert_close(packed.logprob_N, alone[mask], atol=1e-5, rtol=1e-5)


def test_the_reference_is_the_base_before_and_after_updates() -> None:
    base, model = tiny_model(), lora_model()
    samples = on_policy(base, bandit_samples(base))
    policy_trainer = trainer(model, replace(FAST, use_kl_loss=True, kl_loss_coef=0.1))
    assert policy_trainer.train_step(samples)["train/kl"] == pytest.approx(0.0, abs=1e-6)
    assert policy_trainer.train_step(samples)["train/kl"] > 1e-4
    ids = torch.tensor([[3, 4, 5]])
    with torch.no_grad():
        assert not torch.equal(model(ids).logits, base(ids).logits)
        with adapter_off(model):
            assert torch.equal(model(ids).logits, base(ids).logits)


def test_merged_weights_compute_what_the_policy_computes() -> None:
    model = lora_model()
    trainer(model, FAST).train_step(bandit_samples(model))
    plain = tiny_model()
    plain.load_state_dict(dict(merged_weights(model)))
    ids = torch.tensor([[3, 4, 5, 6]])
    torch.testing.assert_close(plain(ids).logits, model(ids).logits, atol=1e-5, rtol=1e-5)


def test_a_checkpoint_holds_the_adapter_for_peft_and_the_merged_model(tmp_path: Path) -> None:
    make_tiny_model(tmp_path / "base")
    policy = load_policy(str(tmp_path / "base"), dtype="float32")
    attach_adapter(policy.model, LORA)
    for name, parameter in policy.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    folder = tmp_path / "step_1"
    save_checkpoint(
        folder, policy.model, policy.tokenizer, record={}, tensors={}, is_merged_too=True
    )
    ids = torch.tensor([[3, 4, 5, 6]])
    expected = policy.model(ids).logits
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    for loaded in (
        PeftModel.from_pretrained(base, folder),
        AutoModelForCausalLM.from_pretrained(folder),
        AutoModelForCausalLM.from_pretrained(folder / "merged"),
        load_policy(str(folder), dtype="float32").model,
        load_policy(str(folder / "merged"), dtype="float32").model,
    ):
        torch.testing.assert_close(loaded.eval()(ids).logits, expected, atol=1e-4, rtol=1e-4)
    assert not (folder / "model.safetensors").exists()
    assert not has_adapter(load_policy(str(folder), dtype="float32").model)


def test_a_merged_model_that_computes_something_else_is_not_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_tiny_model(tmp_path / "base")
    policy = load_policy(str(tmp_path / "base"), dtype="float32")
    attach_adapter(policy.model, LORA)
    honest = merged_weights

    def wrong(model: PreTrainedModel):
        return ((name, tensor * 1.1) for name, tensor in honest(model))

    monkeypatch.setattr("astuner.models.adapter.merged_weights", wrong)
    with pytest.raises(BackboneError, match="saving the merged model failed"):
        save_checkpoint(
            tmp_path / "step_1",
            policy.model,
            policy.tokenizer,
            record={},
            tensors={},
            is_merged_too=True,
        )
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


def test_a_target_that_matches_nothing_is_refused_with_the_names_there_are() -> None:
    message = r"q_porj matches no linear layer .* it has .*q_proj, .*did you mean q_proj\?"
    with pytest.raises(ConfigError, match=message):
        attach_adapter(tiny_model(), replace(LORA, target_modules=["v_proj", "q_porj"]))


@pytest.mark.parametrize(
    "target",
    [
        "layers.99.self_attn.k_proj",
        "mlp.q_proj",
        "self_attn",
        "_proj",
        "lm_head",
        "",
        "model.layers.0.self_attn.q_proj.",
    ],
)
def test_a_target_is_matched_with_all_of_its_parts(target: str) -> None:
    message = "matches no linear layer of the model; it has .*k_proj"
    with pytest.raises(ConfigError, match=message):
        attach_adapter(tiny_model(), replace(LORA, target_modules=["q_proj", target]))


def test_a_target_may_be_one_layer() -> None:
    model = tiny_model()
    targets = ["layers.0.self_attn.q_proj", "model.layers.1.mlp.up_proj"]
    attach_adapter(model, replace(LORA, target_modules=targets))
    trained = {n.partition(".lora_")[0] for n, p in model.named_parameters() if p.requires_grad}
    assert trained == {"model.layers.0.self_attn.q_proj", "model.layers.1.mlp.up_proj"}


def test_dropout_of_the_adapter_is_on_in_training_only() -> None:
    model = tiny_model()
    attach_adapter(model, replace(LORA, dropout=0.5))
    policy_trainer = trainer(model, FAST)
    policy_trainer.train_step(bandit_samples(model))
    assert not any(module.training for module in model.modules())
    gaps = [
        trainer(lora, FAST).train_step(on_policy(lora, bandit_samples(lora)))
        for lora in (lora_model(),)
    ]
    assert gaps[0]["train/logprob_gap_max"] < 1e-4
    policy_trainer.train_step(on_policy(model, bandit_samples(model)))
    after = policy_trainer.train_step(on_policy(model, bandit_samples(model)))
    assert after["train/logprob_gap_max"] > 1e-4


def test_one_key_trains_an_adapter_and_resumes_it(
    taught_model,  # noqa: F811
    tmp_path,
    monkeypatch,
    capsys,
):
    monkeypatch.chdir(tmp_path)
    write_conf(tmp_path, taught_model)
    conf = tmp_path / "adder.yaml"
    settings = yaml.safe_load(conf.read_text())
    settings["astuner"]["trainer_common"] |= {"val_before_train": False, "save_merged": True}
    settings["astuner"]["trainer_common"]["optim"] = {"lr": 1e-3}
    conf.write_text(yaml.safe_dump(settings))
    arguments = ["--conf", "adder.yaml", "astuner.model.lora.rank=4"]
    assert main(arguments) == 0
    assert "(LoRA) parameters" in capsys.readouterr().err
    checkpoint = latest_run() / "checkpoints/step_2"
    adapter = json.loads((checkpoint / "adapter_config.json").read_text())
    assert adapter["r"] == 4 and adapter["lora_alpha"] == 8
    assert main([*arguments, "--resume", "astuner.trainer_common.total_training_steps=3"]) == 0
    lines = list(read_json_lines(latest_run() / "metrics.jsonl"))
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert all(line["train/logprob_gap_max"] < 1e-3 for line in lines)
    assert (latest_run() / "checkpoints/step_3/merged/model.safetensors").is_file()


def test_a_rank_of_zero_is_refused(taught_model, tmp_path, monkeypatch, capsys):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    write_conf(tmp_path, taught_model)
    assert main(["--conf", "adder.yaml", "astuner.model.lora.rank=0"]) == 2
    assert "model.lora.rank" in capsys.readouterr().err
