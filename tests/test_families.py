"""Families of models through the whole local path: generated and trained as their own forward says,
or refused from their configuration. docs/local_backbone.md has them as a table."""

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import torch
import transformers
from transformers import AutoModelForCausalLM, PreTrainedModel

from astuner.engine.continuous import ContinuousBatchingEngine
from astuner.engine.limits import EngineLimits
from astuner.engine.protocol import Sampling
from astuner.errors import ConfigError
from astuner.models.supported import check_supported, what_is_unsupported
from astuner.training.packed_check import verify_packed_pass
from tests.test_local_engine import assert_scores_match, generate_all, prompt
from tests.test_trainer import bandit_samples, trainer
from tests.tiny_model import make_tiny_model

SIZES = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
WINDOW = {"sliding_window": 8}
CAPPED = WINDOW | {
    "head_dim": 8,
    "query_pre_attn_scalar": 8,
    "attn_logit_softcapping": 2.0,
    "final_logit_softcapping": 5.0,
}
EXPERTS = {
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
}
LATENT = {
    "num_key_value_heads": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "n_routed_experts": 4,
    "n_group": 1,
    "topk_group": 1,
    "num_experts_per_tok": 2,
    "first_k_dense_replace": 1,
    "moe_intermediate_size": 16,
}
WORKS: dict[str, dict[str, Any]] = {
    "LlamaConfig": {},
    "MistralConfig": WINDOW,
    "MinistralConfig": WINDOW | {"head_dim": 8},
    "MixtralConfig": EXPERTS,
    "Qwen2Config": {},
    "Qwen3Config": {"head_dim": 8},
    "Qwen2MoeConfig": EXPERTS,
    "Qwen3MoeConfig": EXPERTS | {"head_dim": 8},
    "GemmaConfig": {"head_dim": 8},
    "Gemma2Config": CAPPED,
    "Gemma3TextConfig": WINDOW | {"head_dim": 8, "query_pre_attn_scalar": 8},
    "VaultGemmaConfig": CAPPED,
    "PhiConfig": {},
    "Phi3Config": {},
    "Starcoder2Config": {},
    "CohereConfig": {},
    "Cohere2Config": WINDOW | {"head_dim": 8},
    "OlmoConfig": {},
    "Olmo2Config": {},
    "Olmo3Config": WINDOW,
    "GlmConfig": {"head_dim": 8},
    "Glm4Config": {"head_dim": 8},
    "DeepseekV2Config": LATENT,
    "DeepseekV3Config": LATENT,
    "GraniteConfig": {"logits_scaling": 4.0},
    "SmolLM3Config": {},
    "Exaone4Config": WINDOW | {"sliding_window_pattern": 2},
    "Ernie4_5Config": {"head_dim": 8},
    "SeedOssConfig": {"head_dim": 8},
    "InternLM3Config": {"head_dim": 8},
    "GPTNeoXConfig": {},
    "GPT2Config": {},
}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "GptOssConfig": (EXPERTS | WINDOW | {"head_dim": 8}, "attention sinks"),
    "Gemma4TextConfig": (WINDOW | {"head_dim": 8}, "heads of different sizes"),
    "Llama4TextConfig": (EXPERTS, "layers of the kind chunked_attention"),
    "Qwen3NextConfig": (EXPERTS | {"num_hidden_layers": 4}, "linear_attention"),
    "Qwen3_5TextConfig": ({"num_hidden_layers": 4}, "linear_attention"),
    "MambaConfig": ({}, "linear_attention"),
    "JambaConfig": (EXPERTS, "linear_attention"),
    "FalconConfig": ({}, "cannot be replaced"),
    "BloomConfig": ({}, "cannot be replaced"),
    "MptConfig": ({"d_model": 32, "n_heads": 4, "n_layers": 2}, "cannot be replaced"),
    "StableLmConfig": ({}, "no way to be told"),
    "NemotronConfig": ({}, "no way to be told"),
}


def config_of(name: str, fields: dict[str, Any]) -> Any:
    return getattr(transformers, name)(**{**SIZES, **fields})


def make(name: str) -> PreTrainedModel:
    torch.manual_seed(0)
    config = config_of(name, WORKS[name])
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


def sampling() -> Sampling:
    return Sampling(
        temperature=0.7,
        top_p=1.0,
        top_k=-1,
        max_new_tokens=6,
        stop_ids=frozenset(),
    )


@pytest.mark.filterwarnings("ignore")  # of the sizes that a tiny model has
@pytest.mark.parametrize("name", WORKS)
def test_a_family_generates_and_trains_as_its_own_forward_says(name: str) -> None:
    model = make(name)
    assert what_is_unsupported(model.config) is None
    calls = [(prompt(seed, length), sampling()) for seed, length in enumerate((3, 13, 30))]
    limits = EngineLimits(max_num_seqs=4, max_model_len=64, max_batch_tokens=24)
    completions = generate_all(ContinuousBatchingEngine(model, limits, seed=0), calls)
    assert_scores_match(model, calls, completions)
    verify_packed_pass(model)
    metrics = trainer(model).train_step(bandit_samples(model, num_groups=1))
    assert metrics["train/grad_norm"] > 0


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", REFUSED)
def test_a_family_that_does_not_work_is_known_by_its_configuration(name: str) -> None:
    fields, found = REFUSED[name]
    assert found in (what_is_unsupported(config_of(name, fields)) or "")


def test_a_soft_cap_is_not_passed_over() -> None:
    model = make("Gemma2Config")
    calls = [(prompt(5, 20), sampling())]
    limits = EngineLimits(max_num_seqs=4, max_model_len=64)
    (capped,) = generate_all(ContinuousBatchingEngine(model, limits, seed=0), calls)
    for layer in model.get_decoder().layers:
        layer.self_attn.attn_logit_softcapping = None
    with pytest.raises(AssertionError):
        assert_scores_match(model, calls, [capped])


def test_a_family_that_does_not_work_is_refused_before_its_weights_are_read(tmp_path: Path) -> None:
    make_tiny_model(tmp_path)
    fields, _ = REFUSED["BloomConfig"]
    config_of("BloomConfig", fields).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"is of the family bloom: .* such as Llama"):
        check_supported(str(tmp_path))


def test_the_families_that_were_tried_are_a_table() -> None:
    text = (Path(__file__).parent.parent / "docs/local_backbone.md").read_text()
    section = text.partition("## Models that were tried")[2].partition("\n## ")[0]
    for names, word in ((WORKS, "yes"), (REFUSED, "no")):
        rows = [row for row in section.splitlines() if row.startswith("|") and f"| {word}" in row]
        told = {name for row in rows for name in row.split("`")[1::2] if name.endswith("Config")}
        assert told == set(names)
