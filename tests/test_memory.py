"""What a run is estimated to need, against what it really takes, and what is advised."""

import dataclasses
import mmap

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from transformers import (
    AutoModelForCausalLM,
    DeepseekV3Config,
    Gemma2Config,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    Qwen2Config,
)

from astuner.algorithm.loss import LossInputs, TokenLoss
from astuner.backbone.local import fit
from astuner.cli import main
from astuner.config.load import load_config
from astuner.config.sections.trainer_common import FEWEST_TOKENS
from astuner.errors import BackboneError
from astuner.models.adapter import AdapterSettings, attach_adapter
from astuner.models.device import available_bytes
from astuner.training import optimizer
from astuner.training.footprint import Footprint, measure_footprint
from astuner.training.memory import (
    GIB,
    MemoryPlan,
    estimate_need,
    remedies,
    with_larger_batch,
)
from astuner.training.packed_attention import packed_attention_enabled, stores_scores_on_gpu
from astuner.training.packing import pack
from astuner.training.score import _predicting_states
from astuner.training.trainer import PolicyTrainer
from tests.test_local_run import taught_model, write_conf  # noqa: F401
from tests.test_trainer import SETTINGS, assert_same, bandit_samples, tiny_model, trainer, weights

ADAPTER = AdapterSettings(rank=4, alpha=None, target_modules=None, dropout=0.0)
CONFIG = LlamaConfig(
    vocab_size=300,
    hidden_size=64,
    intermediate_size=160,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
)
LARGE = Footprint(
    num_parameters=10**9,
    num_trained=10**9,
    kept_per_token=10**6,
    kept_per_token_checkpointed=10**5,
    cache_per_token=10**4,
)
ADAPTED = dataclasses.replace(LARGE, num_trained=10**7)
PLAN = MemoryPlan(
    itemsize=2,
    has_reference=True,
    micro_batch_tokens=10_000,
    is_checkpointed=False,
    has_fused_layers=False,
    masters_in_host_memory=False,
    moments_in_host_memory=False,
    max_model_len=4000,
    logit_bytes=0,
)


@pytest.mark.parametrize("adapter", [None, ADAPTER])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_estimate_counts_what_a_training_pass_really_keeps(adapter, dtype) -> None:
    footprint = measure_footprint(CONFIG, dtype, adapter=adapter)
    assert footprint is not None
    model = AutoModelForCausalLM.from_config(CONFIG, dtype=dtype).eval()
    if adapter is not None:
        attach_adapter(model, adapter)
    parameters = list(model.parameters())
    assert footprint.num_parameters == sum(p.numel() for p in parameters)
    assert footprint.num_trained == sum(p.numel() for p in parameters if p.requires_grad)
    own = {p.untyped_storage()._cdata for p in parameters}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = (storage.nbytes(), tensor)
        return tensor

    (sample, *_) = bandit_samples(tiny_model())
    sample = dataclasses.replace(
        sample, ids=tuple(range(1, 201)), mask=(False,) * 2 + (True,) * 198, logprobs=(0.0,) * 200
    )
    (batch,) = pack([sample], max_tokens=1000, device=torch.device("cpu"))
    with saved_tensors_hooks(keep, lambda tensor: tensor), packed_attention_enabled(model):
        _predicting_states(model, batch)
    real = sum(size for size, _ in kept.values()) / batch.num_tokens
    assert footprint.kept_per_token == pytest.approx(real, rel=0.05)


def test_a_model_that_cannot_be_asked_gets_no_estimate() -> None:
    config = MambaConfig(hidden_size=32, num_hidden_layers=1, vocab_size=100)
    assert measure_footprint(config, torch.float32, adapter=None) is None


def test_asking_for_an_estimate_changes_no_configuration() -> None:
    model = tiny_model()
    before = model.config._attn_implementation
    assert measure_footprint(model.config, torch.float32, adapter=None) is not None
    assert model.config._attn_implementation == before


def test_each_part_is_counted_where_it_lies() -> None:
    found = estimate_need(LARGE, PLAN)
    assert found.lasting == {
        "weights": 2 * 10**9,
        "reference": 2 * 10**9,
        "float32 weights": 4 * 10**9,
        "moments": 8 * 10**9,
    }
    assert found.peak == (2 + 2 + 4 + 8 + 4 + 10) * 10**9
    in_host = dataclasses.replace(PLAN, masters_in_host_memory=True, moments_in_host_memory=True)
    assert estimate_need(LARGE, in_host).peak == found.peak - 12 * 10**9
    in_float32 = dataclasses.replace(PLAN, itemsize=4, has_reference=False)
    assert estimate_need(LARGE, in_float32).lasting["float32 weights"] == 0
    assert estimate_need(ADAPTED, PLAN).lasting["moments"] == 8 * 10**7


@pytest.mark.parametrize("available", [29, 25, 20, 14, 8, 5])
def test_what_is_advised_fits_and_is_as_little_as_possible(available) -> None:
    available *= 10**9
    found = remedies(LARGE, PLAN, available, with_adapter=ADAPTED)
    assert found
    for remedy in found:
        assert remedy.text
        assert estimate_need(remedy.footprint, remedy.plan).peak <= available
    assert len({remedy.text for remedy in found}) == len(found)


def test_advice_names_keys_and_values() -> None:
    (fewer, *_) = remedies(LARGE, PLAN, 29 * 10**9, with_adapter=ADAPTED)
    assert fewer.text == "trainer_common.max_token_len_per_gpu: 8960"
    (fewer, *_) = remedies(LARGE, PLAN, 23 * 10**9, with_adapter=ADAPTED)
    assert fewer.text == (
        "trainer_common.max_token_len_per_gpu: 2816 and rollout.max_model_len: 2816"
    )
    assert remedies(LARGE, PLAN, 10**9, with_adapter=ADAPTED) == []


@pytest.mark.parametrize(
    ("available", "step_tokens", "found"),
    [
        (60, 10**6, 19_968),  # half of the 40 GB that other parts leave, in whole steps
        (60, 15_000, 15_000),
        (400, 10**6, 59_904),  # as many as a GPU of few operations a second takes seconds for
        (35, 10**6, 10_000),  # that it has, though it is more than half
        (10, 10**6, 10_000),
    ],
)
def test_a_micro_batch_grows_into_half_of_the_memory_that_is_left(
    available, step_tokens, found
) -> None:
    grown = with_larger_batch(LARGE, PLAN, available * 10**9, step_tokens=step_tokens)
    assert grown == dataclasses.replace(PLAN, micro_batch_tokens=found)


@pytest.mark.parametrize(
    ("device", "free", "overrides", "found"),
    [
        ("cuda", 2**36, [], 4 * 2 * 800),  # all of a step
        ("cuda", 2**36, ["astuner.data.train_batch_size=1000"], 65_536),
        ("cuda", 2**36, ["astuner.rollout.name=vllm"], FEWEST_TOKENS),
        ("cuda", 2**36, ["astuner.trainer_common.detectors.memory=off"], FEWEST_TOKENS),
        ("cuda", 2**36, ["astuner.trainer_common.max_token_len_per_gpu=300"], 300),
        ("cpu", 2**36, [], FEWEST_TOKENS),
        ("cpu", 2**23, [], 800),  # more would not fit
    ],
)
def test_a_micro_batch_whose_size_is_open_is_as_large_as_its_device_is_good_for(
    taught_model,  # noqa: F811
    tmp_path,
    monkeypatch,
    device,
    free,
    overrides,
    found,
) -> None:
    monkeypatch.setattr(fit, "choose_device", lambda name: torch.device(device))
    monkeypatch.setattr(fit, "choose_dtype", lambda name, device: torch.bfloat16)
    monkeypatch.setattr(fit, "available_bytes", lambda device: free)
    monkeypatch.setattr(fit, "num_logit_bytes", lambda device: 2**10)
    write_conf(tmp_path, taught_model)
    overrides = ["astuner.rollout.max_model_len=800", *overrides]
    settings = load_config(tmp_path / "adder.yaml", overrides).settings
    fitted = fit.fit_to_device(settings, str(taught_model))
    assert fitted.micro_batch_tokens == found
    assert f"micro-batch of {found} tokens" in fitted.summary


@pytest.mark.parametrize(
    ("config", "dtype", "stores"),
    [
        (CONFIG, torch.bfloat16, False),
        (CONFIG, torch.float32, True),
        (Gemma2Config(sliding_window=None), torch.bfloat16, True),  # capped scores
        (MistralConfig(sliding_window=500), torch.bfloat16, True),
        (MistralConfig(sliding_window=800), torch.bfloat16, False),
        (Qwen2Config(sliding_window=500), torch.bfloat16, False),  # which does not use it
        (DeepseekV3Config(), torch.bfloat16, True),  # values of another size than keys
    ],
)
def test_what_stores_scores_on_a_gpu_is_known(config, dtype, stores) -> None:
    assert stores_scores_on_gpu(config, dtype, longest=800) is stores


def test_a_run_that_cannot_fit_ends_before_the_model_is_loaded(
    taught_model,  # noqa: F811
    tmp_path,
    monkeypatch,
    capsys,
):
    monkeypatch.chdir(tmp_path)
    write_conf(tmp_path, taught_model)
    monkeypatch.setattr(fit, "available_bytes", lambda device: 2**20)
    assert main(["--conf", "adder.yaml"]) == 2
    screen = " ".join(capsys.readouterr().err.split())
    assert "the run needs about 0." in screen and "0.00 GiB are free on cpu" in screen
    assert "detectors.memory: warn" in screen
    assert "loading" not in screen


def test_what_is_free_is_known() -> None:
    assert 0.01 * GIB < available_bytes(torch.device("cpu")) < 2**50


def test_running_out_of_memory_in_training_names_phase_size_and_setting() -> None:
    def greedy(inputs: LossInputs) -> TokenLoss:
        torch.empty(2**50)
        raise AssertionError("there was room")

    model = tiny_model()
    policy_trainer = trainer(model, dataclasses.replace(SETTINGS, policy_loss=greedy))
    before = weights(model)
    with pytest.raises(
        BackboneError, match=r"training pass on cpu, at a micro-batch of \d+ tokens"
    ):
        policy_trainer.train_step(bandit_samples(model))
    assert_same(weights(model), before)


def test_an_update_in_parts_makes_the_same_weights(monkeypatch) -> None:
    """On a CPU nothing moves; test_gpu.py holds the same where it does."""
    trained = []
    for is_in_parts in (False, True):
        monkeypatch.setattr(optimizer, "PART_ELEMENTS", 2000)
        settings = dataclasses.replace(
            SETTINGS,
            optimizer=dataclasses.replace(
                SETTINGS.optimizer,
                masters_in_host_memory=is_in_parts,
                moments_in_host_memory=is_in_parts,
            ),
        )
        model = tiny_model().to(torch.bfloat16)
        policy_trainer = PolicyTrainer(model, settings, seed=0)
        for _ in range(2):
            policy_trainer.train_step(bandit_samples(model))
        trained.append(weights(model))
    assert_same(*trained)


def test_what_can_be_pinned_shares_no_page_with_anything() -> None:
    page = mmap.PAGESIZE
    tensors = [optimizer.whole_pages(torch.Size(shape)) for shape in ((3,), (3, 5), (2000,))]
    pages = [
        set(range(t.data_ptr() // page, (t.data_ptr() + 4 * t.numel() - 1) // page + 1))
        for t in tensors
    ]
    assert all(t.data_ptr() % page == 0 for t in tensors)
    assert len(set().union(*pages)) == sum(map(len, pages)) == 1 + 1 + 2
    assert [t.shape for t in tensors] == [(3,), (3, 5), (2000,)]
