"""Training steps: what they do to the weights, and what they report."""

import copy
import random
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from astuner.errors import BackboneError
from astuner.training.optimizer import MasterAdamW, OptimizerSettings
from astuner.training.packing import pack
from astuner.training.score import score_batch
from astuner.training.settings import PolicyTrainerSettings
from astuner.training.trainer import PolicyTrainer
from astuner.trajectory.samples import TrainSample

OPTIMIZER = OptimizerSettings(
    learning_rate=1e-2, warmup_updates=0, weight_decay=0.0, max_grad_norm=1.0
)
SETTINGS = PolicyTrainerSettings(
    optimizer=OPTIMIZER,
    mini_batch_num=1,
    max_token_len_per_gpu=10_000,
    policy_loss="ppo_clip",
    loss_aggregation="token-mean",
    clip_low=0.2,
    clip_high=0.2,
    use_kl_loss=False,
    kl_loss_coef=0.0,
    kl_loss_type="low_var_kl",
)


def tiny_model(*, dtype: torch.dtype = torch.float32, is_tied: bool = False) -> PreTrainedModel:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        initializer_range=0.1,
        tie_word_embeddings=is_tied,
        bos_token_id=None,
        eos_token_id=None,
    )
    return Qwen2ForCausalLM(config).to(dtype)


def trainer(
    model: PreTrainedModel, settings: PolicyTrainerSettings = SETTINGS, seed: int = 0
) -> PolicyTrainer:
    return PolicyTrainer(model, settings, seed=seed)


def on_policy(model: PreTrainedModel, samples: Sequence[TrainSample]) -> list[TrainSample]:
    """The samples with the log-probabilities that the model gives now."""
    (batch,) = pack(samples, max_tokens=100_000)
    temperature_N = torch.tensor([s.temperature for s in samples])[batch.sample_N]
    logprob_N = score_batch(model, batch, temperature_N).logprob_N
    result = []
    for index, one in enumerate(samples):
        found = iter(logprob_N[batch.sample_N == index].tolist())
        logprobs = tuple(next(found) if is_trained else 0.0 for is_trained in one.mask)
        result.append(replace(one, logprobs=logprobs))
    return result


def bandit_samples(model: PreTrainedModel, num_groups: int = 3) -> list[TrainSample]:
    """Groups of four replies to one prompt; those of even tokens have the advantage."""
    generator = random.Random(0)
    samples = []
    for task in range(num_groups):
        prompt = [generator.randrange(50) for _ in range(20)]
        for attempt in range(4):
            is_good = attempt % 2 == 0
            reply = [2 * generator.randrange(25) + (not is_good) for _ in range(3 + attempt)]
            samples.append(
                TrainSample(
                    ids=tuple(prompt + reply),
                    mask=(False,) * len(prompt) + (True,) * len(reply),
                    logprobs=(0.0,) * (len(prompt) + len(reply)),
                    advantage=1.0 if is_good else -1.0,
                    temperature=0.8,
                    weight_version=0,
                    task_id=str(task),
                    episode_id=f"{task}-{attempt}",
                )
            )
    return on_policy(model, samples)


def mean_logprob(model: PreTrainedModel, samples: Sequence[TrainSample], sign: float) -> float:
    chosen = on_policy(model, [one for one in samples if one.advantage == sign])
    values = [p for one in chosen for p, m in zip(one.logprobs, one.mask, strict=True) if m]
    return sum(values) / len(values)


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def assert_same(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def differs(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return any(not torch.equal(first[name], second[name]) for name in first)


# --- Learning


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_was_better_than_its_group_gets_likelier_and_what_was_worse_does_not(
    dtype: torch.dtype,
) -> None:
    model = tiny_model(dtype=dtype)
    samples = bandit_samples(model)
    better, worse = (mean_logprob(model, samples, sign) for sign in (1.0, -1.0))
    policy_trainer = trainer(model)
    for _ in range(8):
        policy_trainer.train_step(on_policy(model, samples))
    assert mean_logprob(model, samples, 1.0) > better + 0.5
    assert mean_logprob(model, samples, -1.0) < worse - 0.5


def last_gradients(settings: PolicyTrainerSettings) -> dict[str, Tensor]:
    """The whole gradient of a step, as it stands when the last micro-batch is done."""
    model = tiny_model()
    found: dict[str, Tensor] = {}

    def look(done: int, total: int) -> None:
        if done == total:
            found.update(
                {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
            )

    trainer(model, settings).train_step(bandit_samples(model), on_progress=look)
    return found


@pytest.mark.parametrize("aggregation", ["token-mean", "seq-mean-token-mean"])
def test_the_size_of_micro_batches_does_not_change_the_gradient(aggregation: str) -> None:
    settings = replace(SETTINGS, loss_aggregation=aggregation)
    whole = last_gradients(settings)
    for max_tokens in (30, 1):
        parts = last_gradients(replace(settings, max_token_len_per_gpu=max_tokens))
        assert parts.keys() == whole.keys()
        for name, gradient in parts.items():
            torch.testing.assert_close(gradient, whole[name], atol=1e-6, rtol=1e-4, msg=name)


def test_the_loss_on_policy_is_minus_the_weighted_advantage() -> None:
    model = tiny_model()
    samples = bandit_samples(model)
    counts = [sum(one.mask) for one in samples]
    token_mean = sum(-one.advantage * n for one, n in zip(samples, counts, strict=True))
    metrics = trainer(model).train_step(samples)
    assert metrics["train/loss"] == pytest.approx(token_mean / sum(counts), abs=1e-5)
    settings = replace(SETTINGS, loss_aggregation="seq-mean-token-mean")
    metrics = trainer(tiny_model(), settings).train_step(samples)
    assert metrics["train/loss"] == pytest.approx(0.0, abs=1e-5)


def test_a_sample_of_advantage_0_counts_in_the_mean_and_in_the_divergence() -> None:
    def step(value: float) -> dict[str, float | None]:
        model = tiny_model()
        samples = bandit_samples(model, num_groups=1)
        samples = [replace(samples[0], advantage=value), *samples[1:]]
        settings = replace(SETTINGS, use_kl_loss=True)
        other = tiny_model()
        other.get_input_embeddings().weight.data += 0.1
        return PolicyTrainer(model, settings, seed=0, reference=other).train_step(samples)

    without, with_value = step(0.0), step(0.5)
    for name in ("train/tokens", "train/sample_tokens", "train/kl"):
        assert without[name] == with_value[name] > 0
    # Of 3 + 4 + 5 + 6 tokens, the first 3 have the value, and the others -1, 1, -1.
    assert without["train/loss"] == pytest.approx((4 - 5 + 6) / 18, abs=1e-5)
    assert with_value["train/loss"] == pytest.approx((-0.5 * 3 + 4 - 5 + 6) / 18, abs=1e-5)


def test_a_divergence_loss_keeps_the_policy_near_its_start() -> None:
    def drift(coefficient: float) -> dict[str, float]:
        model = tiny_model()
        settings = replace(SETTINGS, use_kl_loss=True, kl_loss_coef=coefficient)
        policy_trainer = trainer(model, settings)
        samples = bandit_samples(model)
        first = policy_trainer.train_step(samples)
        assert first["train/kl"] == pytest.approx(0.0, abs=1e-6)
        for _ in range(4):
            metrics = policy_trainer.train_step(on_policy(model, samples))
        return metrics

    assert 0 < drift(100.0)["train/kl"] < drift(0.0)["train/kl"] / 2


def test_a_given_reference_is_what_the_divergence_is_measured_from() -> None:
    settings = replace(SETTINGS, use_kl_loss=True)
    model, other = tiny_model(), tiny_model()
    with torch.no_grad():
        other.lm_head.weight.mul_(3.0)
    policy_trainer = PolicyTrainer(model, settings, seed=0, reference=other)
    assert policy_trainer.train_step(bandit_samples(model))["train/kl"] > 0.01
    assert not any(p.requires_grad for p in other.parameters())


# --- What a step reports and leaves


def test_a_step_reports_what_it_did() -> None:
    model = tiny_model()
    samples = bandit_samples(model)
    metrics = trainer(model).train_step(samples)
    assert metrics["train/tokens"] == 3 * (3 + 4 + 5 + 6)
    assert metrics["train/sample_tokens"] == 12 * 20 + metrics["train/tokens"]
    assert metrics["train/packed_tokens"] == 3 * 20 + metrics["train/tokens"] - 12
    assert metrics["train/updates"] == 1
    assert metrics["train/lr"] == OPTIMIZER.learning_rate
    assert metrics["train/grad_norm"] > 0
    assert metrics["train/clip_fraction"] == 0
    assert metrics["train/logprob_gap_max"] < 1e-5
    assert 0 < metrics["train/entropy"] < 3.92  # log 50
    assert metrics["train/seconds"] > 0
    assert "train/kl" not in metrics


def test_the_gap_is_between_recomputed_and_sampled_log_probabilities() -> None:
    model = tiny_model()
    samples = bandit_samples(model)
    off = [replace(samples[0], logprobs=tuple(p - 0.5 * (p < 0) for p in samples[0].logprobs))]
    metrics = trainer(model).train_step(off + samples[1:])
    assert metrics["train/logprob_gap_max"] == pytest.approx(0.5, abs=1e-4)
    share = sum(samples[0].mask) / metrics["train/tokens"]
    assert metrics["train/logprob_gap_mean"] == pytest.approx(0.5 * share, abs=1e-4)
    # e^0.5 is above 1.2, and the advantage is positive.
    assert metrics["train/clip_fraction"] == pytest.approx(share)


def test_the_gap_is_measured_before_the_weights_move() -> None:
    model = tiny_model()
    metrics = trainer(model, replace(SETTINGS, mini_batch_num=4)).train_step(bandit_samples(model))
    assert metrics["train/updates"] == 4
    assert metrics["train/logprob_gap_max"] < 1e-5


def test_nothing_to_train_on_makes_no_update() -> None:
    model = tiny_model()
    before = weights(model)
    policy_trainer = trainer(model)
    metrics = policy_trainer.train_step([])
    assert metrics["train/updates"] == metrics["train/tokens"] == 0
    unknown = {name for name, value in metrics.items() if value is None}
    assert unknown == {
        f"train/{name}"
        for name in (
            ["loss", "grad_norm", "clip_fraction", "entropy", "logprob_gap_mean", "logprob_gap_max"]
        )
    }
    assert policy_trainer.num_updates == 0
    assert_same(weights(model), before)


def test_fewer_samples_than_mini_batches_make_one_update_each() -> None:
    model = tiny_model()
    settings = replace(SETTINGS, mini_batch_num=5)
    assert trainer(model, settings).train_step(bandit_samples(model)[:3])["train/updates"] == 3


def test_the_same_seed_gives_the_same_weights_and_another_one_does_not() -> None:
    settings = replace(SETTINGS, mini_batch_num=3)

    def trained(seed: int) -> dict[str, Tensor]:
        model = tiny_model()
        trainer(model, settings, seed).train_step(bandit_samples(model))
        return weights(model)

    assert_same(trained(1), trained(1))
    assert differs(trained(1), trained(2))


def entered(mode: AbstractContextManager[object]) -> AbstractContextManager[object]:
    mode.__enter__()
    return mode


@pytest.mark.parametrize(
    "left_by_user_code",
    [
        lambda: torch.set_grad_enabled(False),
        lambda: entered(torch.inference_mode()),
        lambda: entered(torch.autocast("cpu", dtype=torch.bfloat16)),
        lambda: torch.set_default_dtype(torch.float64),
        lambda: torch.set_default_device("meta"),
    ],
    ids=["no gradients", "inference mode", "autocast", "default type", "default device"],
)
@pytest.mark.parametrize("settings", [SETTINGS, replace(SETTINGS, kl_in_reward_coef=0.1)])
def test_what_user_code_left_of_torchs_switches_changes_no_weight(
    settings: PolicyTrainerSettings, left_by_user_code: Callable[[], object]
) -> None:
    def trained() -> tuple[dict[str, Tensor], dict[tuple[str, int], float]]:
        divergences = step.reference_divergences(samples)
        step.train_step(samples)
        return weights(model), divergences

    model = tiny_model()
    step, samples = trainer(model, settings), bandit_samples(model)
    expected = trained()
    model = tiny_model()
    step, samples = trainer(model, settings), bandit_samples(model)
    left = left_by_user_code()
    try:
        found = trained()
    finally:
        # The thread of a test is that of the next one.
        if isinstance(left, AbstractContextManager):
            left.__exit__(None, None, None)
        torch.set_grad_enabled(True)
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
    assert_same(found[0], expected[0])
    assert found[1] == expected[1]


def test_progress_counts_packed_tokens_up_to_the_total() -> None:
    model = tiny_model()
    seen: list[tuple[int, int]] = []
    settings = replace(SETTINGS, max_token_len_per_gpu=40, mini_batch_num=2)
    metrics = trainer(model, settings).train_step(
        bandit_samples(model), on_progress=lambda done, total: seen.append((done, total))
    )
    assert len(seen) > 2
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert seen[-1][0] == seen[-1][1] == metrics["train/packed_tokens"]


class Stop(Exception):
    pass


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_interrupted_step_leaves_no_trace(dtype: torch.dtype) -> None:
    model = tiny_model(dtype=dtype)
    samples = bandit_samples(model)
    untouched = copy.deepcopy(model)
    settings = replace(SETTINGS, max_token_len_per_gpu=40)
    policy_trainer = trainer(model, settings)

    def stop(done: int, total: int) -> None:
        raise Stop

    with pytest.raises(Stop):
        policy_trainer.train_step(samples, on_progress=stop)
    assert_same(weights(model), weights(untouched))
    policy_trainer.train_step(samples)
    trainer(untouched, settings).train_step(samples)
    assert_same(weights(model), weights(untouched))


def test_a_model_left_in_training_mode_is_trained_without_dropout() -> None:
    model = tiny_model()
    model.config.attention_dropout = 0.5
    model.train()
    policy_trainer = trainer(model)
    model.train()
    assert policy_trainer.train_step(bandit_samples(model))["train/logprob_gap_max"] < 1e-5


@pytest.mark.parametrize(
    "change",
    [
        {"policy_loss": "none"},
        {"loss_aggregation": "sum"},
        {"kl_loss_type": "k4"},
        {"mini_batch_num": 0},
        {"max_token_len_per_gpu": 0},
        {"clip_low": 1.0},
    ],
)
def test_settings_out_of_range_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        replace(SETTINGS, **change)


# --- The optimizer


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_change_in_place_and_gradients_are_freed(dtype: torch.dtype) -> None:
    model = tiny_model(dtype=dtype)
    before, places = weights(model), [p.data_ptr() for p in model.parameters()]
    trainer(model).train_step(bandit_samples(model))
    assert differs(weights(model), before)
    assert [p.data_ptr() for p in model.parameters()] == places
    assert {p.dtype for p in model.parameters()} == {dtype}
    assert all(p.grad is None for p in model.parameters())


def one_weight(value: float, dtype: torch.dtype) -> nn.Linear:
    layer = nn.Linear(1, 1, bias=False, dtype=dtype)
    nn.init.constant_(layer.weight, value)
    return layer


def test_updates_too_small_for_bfloat16_add_up_in_the_masters() -> None:
    layer = one_weight(1.0, torch.bfloat16)
    optimizer = MasterAdamW(layer, replace(OPTIMIZER, learning_rate=1e-3))
    values = []
    for _ in range(8):
        layer(torch.ones(1, 1, dtype=torch.bfloat16)).sum().backward()
        optimizer.update()
        values.append(layer.weight.item())
    # Adam moves the master by 1e-3 each time. bfloat16 below 1 is spaced by 2^-8 = 3.9e-3, so the
    # first update leaves the weight at 1 and eight of them move it to the nearest of 0.992.
    assert values[0] == 1.0
    assert values[-1] == 1 - 2 * 2**-8


def test_gradients_add_up_in_float32() -> None:
    layer = one_weight(1.0, torch.bfloat16)
    optimizer = MasterAdamW(layer, replace(OPTIMIZER, max_grad_norm=1e9))
    for size in (256.0, *[1.0] * 8):
        layer(torch.full((1, 1), size, dtype=torch.bfloat16)).sum().backward()
        assert layer.weight.grad is None
    # In bfloat16, 256 + 1 is 256.
    assert optimizer.update().grad_norm == 264.0


def test_tied_embeddings_are_one_parameter_and_stay_tied() -> None:
    model = tiny_model(dtype=torch.bfloat16, is_tied=True)
    policy_trainer = trainer(model)
    tensors = policy_trainer.tensors()
    assert "master/lm_head.weight" not in tensors
    policy_trainer.train_step(bandit_samples(model))
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert torch.equal(model.lm_head.weight, tensors["master/model.embed_tokens.weight"].bfloat16())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradient_checkpointing_changes_no_weight(dtype: torch.dtype) -> None:
    kept, again = (tiny_model(dtype=dtype) for _ in range(2))
    samples = bandit_samples(kept)
    trainer(kept).train_step(samples)
    computed: list[bool] = []
    again.model.layers[0].mlp.register_forward_pre_hook(lambda *_: computed.append(True))
    policy_trainer = trainer(again, replace(SETTINGS, gradient_checkpointing=True))
    num_before = len(computed)
    policy_trainer.train_step(samples)
    assert len(computed) - num_before == 2
    assert not again.training
    assert_same(weights(again), weights(kept))


def test_frozen_parameters_stay_as_they_are() -> None:
    model = tiny_model()
    model.model.embed_tokens.weight.requires_grad_(False)
    before = weights(model)
    trainer(model).train_step(bandit_samples(model))
    after = weights(model)
    frozen = "model.embed_tokens.weight"
    assert torch.equal(before.pop(frozen), after.pop(frozen))
    assert differs(before, after)


def test_gradients_are_scaled_to_the_largest_norm() -> None:
    layer = one_weight(1.0, torch.float32)
    optimizer = MasterAdamW(layer, replace(OPTIMIZER, max_grad_norm=0.5))
    layer(torch.full((1, 1), 4.0)).sum().backward()
    assert optimizer.update().grad_norm == 4.0
    # Adam's first moment after one update is (1 - 0.9) times the gradient it was given.
    assert optimizer.tensors()["exp_avg/weight"].item() == pytest.approx(0.05, rel=1e-4)


def test_the_rate_warms_up_linearly_and_stays() -> None:
    layer = one_weight(1.0, torch.float32)
    optimizer = MasterAdamW(layer, replace(OPTIMIZER, warmup_updates=4))
    rates = []
    for _ in range(6):
        layer(torch.ones(1, 1)).sum().backward()
        rates.append(optimizer.update().learning_rate)
    assert rates == pytest.approx([0.0025, 0.005, 0.0075, 0.01, 0.01, 0.01])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gradient_that_is_not_finite_stops_and_names_the_parameter(dtype: torch.dtype) -> None:
    model = tiny_model(dtype=dtype)
    samples = bandit_samples(model)
    policy_trainer = trainer(model)
    before = weights(model)
    broken = [replace(samples[0], advantage=float("inf")), *samples[1:]]
    with pytest.raises(BackboneError, match=r"not finite in \d+ parameters, first .*weight"):
        policy_trainer.train_step(broken)
    assert_same(weights(model), before)
    assert policy_trainer.num_updates == 0
    policy_trainer.train_step(samples)
    assert differs(weights(model), before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_continued_run_makes_the_same_weights_as_an_unbroken_one(dtype: torch.dtype) -> None:
    settings = replace(SETTINGS, mini_batch_num=2)
    model = tiny_model(dtype=dtype)
    samples = bandit_samples(model)
    unbroken = trainer(model, settings)
    unbroken.train_step(samples)
    state = copy.deepcopy(unbroken.tensors())
    unbroken.train_step(samples)
    other = tiny_model(dtype=dtype)
    continued = trainer(other, settings)
    continued.load_tensors(state, num_updates=2)
    continued.train_step(samples)
    assert_same(weights(other), weights(model))


def test_the_state_of_another_model_is_refused() -> None:
    tensors = MasterAdamW(one_weight(1.0, torch.float32), OPTIMIZER).tensors()
    with pytest.raises(BackboneError, match="of another model"):
        MasterAdamW(tiny_model(), OPTIMIZER).load_tensors(tensors, num_updates=0)
