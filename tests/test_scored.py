"""What the pass that trains a sample thinks of its tokens: no second pass, and nothing else."""

from dataclasses import replace

import pytest
import torch

from astuner.errors import BackboneError
from astuner.training.scored import ScoredSample
from tests.test_trainer import (
    SETTINGS,
    assert_same,
    bandit_samples,
    on_policy,
    tiny_model,
    trainer,
    weights,
)


def scored_by(policy_trainer, samples) -> list[ScoredSample]:
    found: list[ScoredSample] = []
    policy_trainer.train_step(samples, on_scored=found.extend)
    return found


def trained(sample) -> list[float]:
    return [p for p, is_trained in zip(sample.logprobs, sample.mask, strict=True) if is_trained]


@pytest.mark.parametrize("max_tokens", [10_000, 60])
def test_each_sample_has_the_log_probabilities_of_the_weights_before_the_step(max_tokens):
    model = tiny_model()
    samples = bandit_samples(model)
    expected = [trained(sample) for sample in samples]
    off = [replace(s, logprobs=tuple(p - 0.3 * (p < 0) for p in s.logprobs)) for s in samples]
    settings = replace(SETTINGS, max_token_len_per_gpu=max_tokens)
    found = scored_by(trainer(model, settings), off)
    assert [one.sample for one in found] == off
    assert [one.update for one in found] == [0] * len(off)
    for one, logprobs in zip(found, expected, strict=True):
        assert one.logprobs == pytest.approx(logprobs, abs=1e-5)
        assert one.reference_logprobs is None
        assert one.weight == pytest.approx(1 / sum(sum(s.mask) for s in off))


def test_a_later_mini_batch_is_scored_by_the_weights_after_the_update_before_it():
    model, unchanged = tiny_model(), tiny_model()
    samples = bandit_samples(model)
    before = {s.episode_id: trained(s) for s in samples}
    found = scored_by(trainer(model, replace(SETTINGS, mini_batch_num=2)), samples)
    assert sorted(one.update for one in found) == [0] * 6 + [1] * 6
    first = [one.sample for one in found if one.update == 0]
    trainer(unchanged).train_step(first)
    after = {s.episode_id: trained(s) for s in on_policy(unchanged, samples)}
    for one in found:
        name = one.sample.episode_id
        expected = after[name] if one.update else before[name]
        assert one.logprobs == pytest.approx(expected, abs=1e-4)
        assert (one.logprobs == pytest.approx(before[name], abs=1e-4)) == (one.update == 0)


def test_tokens_between_the_trained_ones_have_no_place():
    model = tiny_model()
    whole = bandit_samples(model)[3]
    mask = [*whole.mask]
    mask[-3] = False
    gapped = replace(whole, mask=tuple(mask))
    expected = [p for p, m in zip(whole.logprobs, gapped.mask, strict=True) if m]
    (found,) = scored_by(trainer(model), [gapped])
    assert found.logprobs == pytest.approx(expected, abs=1e-5)


def test_a_divergence_in_the_loss_brings_the_log_probabilities_of_the_reference():
    model = tiny_model()
    policy_trainer = trainer(model, replace(SETTINGS, use_kl_loss=True, kl_loss_coef=0.1))
    samples = bandit_samples(model)
    policy_trainer.train_step(samples)
    second = scored_by(policy_trainer, samples)
    for one in second:
        assert one.reference_logprobs == pytest.approx(trained(one.sample), abs=1e-5)
        assert one.logprobs != pytest.approx(trained(one.sample), abs=1e-3)


def test_to_be_told_changes_no_weight():
    told, silent = tiny_model(), tiny_model()
    settings = replace(SETTINGS, mini_batch_num=2)
    scored_by(trainer(told, settings), bandit_samples(told))
    trainer(silent, settings).train_step(bandit_samples(silent))
    assert_same(weights(told), weights(silent))


def test_a_step_that_is_broken_off_tells_nothing():
    model, found = tiny_model(), []
    samples, policy_trainer = bandit_samples(model), trainer(model)
    with torch.no_grad():
        model.lm_head.weight[0] = float("nan")
    with pytest.raises(BackboneError, match="finite"):
        policy_trainer.train_step(samples, on_scored=found.append)
    assert found == []


def test_nothing_to_train_is_nothing_scored():
    assert scored_by(trainer(tiny_model()), []) == []
