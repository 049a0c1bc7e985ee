"""Advantages, losses, KL estimates and rates against numbers worked by hand."""

import math
import random

import pytest
import torch

from astuner.algorithm.advantage import ADVANTAGES, grpo, has_spread
from astuner.algorithm.kl import KL_ESTIMATORS
from astuner.algorithm.loss import AGGREGATIONS, LOSSES, ppo_clip
from astuner.algorithm.metrics import mean, success_rate


def test_grpo_centres_rewards_and_divides_by_the_sample_deviation() -> None:
    # Mean 2, squared distances 4 + 0 + 4, divisor 2: deviation 2.
    assert grpo([0.0, 2.0, 4.0]) == pytest.approx([-1.0, 0.0, 1.0], abs=1e-6)
    # Mean 0.25, squared distances 3 * 1/16 + 9/16 = 3/4, divisor 3: deviation 1/2.
    assert grpo([1.0, 0.0, 0.0, 0.0]) == pytest.approx([1.5, -0.5, -0.5, -0.5], abs=1e-5)


def test_a_group_of_equal_rewards_gives_exact_zeros() -> None:
    assert grpo([0.1, 0.1, 0.1]) == [0.0, 0.0, 0.0]
    assert grpo([7.0]) == [0.0]
    assert not has_spread([0.1] * 3)
    assert has_spread([0.0, 1.0])


def test_advantages_sum_to_zero_and_keep_the_order_of_the_rewards() -> None:
    generator = random.Random(0)
    for _ in range(50):
        rewards = [generator.uniform(-5, 5) for _ in range(generator.randint(2, 16))]
        advantages = grpo(rewards)
        assert sum(advantages) == pytest.approx(0.0, abs=1e-9)
        ranked = sorted(range(len(rewards)), key=rewards.__getitem__)
        assert ranked == sorted(range(len(rewards)), key=advantages.__getitem__)


def test_rewards_that_differ_by_rounding_only_stay_near_zero() -> None:
    assert max(map(abs, grpo([1.0, 1.0 + 1e-12]))) < 1e-5


@pytest.mark.parametrize("rewards", [[], [math.nan, 1.0], [1.0, math.inf]])
def test_a_group_that_is_empty_or_not_finite_is_refused(rewards: list[float]) -> None:
    for function in (*ADVANTAGES.values(), has_spread):
        with pytest.raises(ValueError):
            function(rewards)


def test_ppo_clip_matches_numbers_worked_by_hand() -> None:
    old = torch.zeros(6)
    ratios = torch.tensor([1.0, 1.5, 0.5, 1.5, 0.5, 1.1])
    advantages = torch.tensor([2.0, 2.0, 2.0, -1.0, -1.0, -1.0])
    result = ppo_clip(ratios.log(), old, advantages_N=advantages, clip_low=0.2, clip_high=0.3)
    # A > 0: ratios above 1.3 are clipped. A < 0: ratios below 0.8 are.
    expected = [-2.0, -2.6, -1.0, 1.5, 0.8, 1.1]
    assert result.loss_N.tolist() == pytest.approx(expected, abs=1e-6)
    assert result.is_clipped_N.tolist() == [False, True, False, False, True, False]


def test_a_clipped_token_gives_no_gradient_and_others_give_minus_advantage_times_ratio() -> None:
    logprobs = torch.tensor([0.0, 1.0, -1.0]).requires_grad_()
    result = LOSSES["ppo_clip"](
        logprobs,
        torch.zeros(3),
        advantages_N=torch.tensor([0.5, 1.0, 1.0]),
        clip_low=0.2,
        clip_high=0.2,
    )
    result.loss_N.sum().backward()
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == pytest.approx([-0.5, 0.0, -math.exp(-1)])


def test_a_ratio_that_would_overflow_stays_finite() -> None:
    far = torch.tensor([1e4, -1e4]).requires_grad_()
    one = torch.tensor([-1.0, -1.0])
    loss = ppo_clip(far, torch.zeros(2), advantages_N=one, clip_low=0.2, clip_high=0.2).loss_N
    loss.sum().backward()
    assert far.grad is not None
    assert torch.isfinite(loss).all() and torch.isfinite(far.grad).all()


def test_kl_estimates_match_numbers_worked_by_hand() -> None:
    policy, reference = torch.tensor([math.log(0.5)]), torch.tensor([math.log(0.25)])
    expected = {"k1": math.log(2), "k2": math.log(2) ** 2 / 2, "k3": 0.5 - 1 + math.log(2)}
    expected["low_var_kl"] = expected["k3"]
    assert {n: e(policy, reference).item() for n, e in KL_ESTIMATORS.items()} == pytest.approx(
        expected
    )


def test_k1_and_k3_average_to_the_true_divergence() -> None:
    policy, reference = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.3, 0.3, 0.4])
    divergence = (policy * (policy / reference).log()).sum().item()
    for name in ("k1", "k3"):
        estimate = KL_ESTIMATORS[name](policy.log(), reference.log())
        assert (policy * estimate).sum().item() == pytest.approx(divergence, rel=1e-5)


def test_equal_distributions_have_no_divergence() -> None:
    same = torch.tensor([-1.0, -2.0])
    for estimator in KL_ESTIMATORS.values():
        assert estimator(same, same).tolist() == [0.0, 0.0]


def test_token_mean_weighs_tokens_alike_and_sequence_mean_weighs_samples_alike() -> None:
    assert AGGREGATIONS["token-mean"]([1, 3]) == [0.25, 0.25]
    assert AGGREGATIONS["seq-mean-token-mean"]([1, 3]) == [0.5, pytest.approx(1 / 6)]


def test_every_aggregation_gives_weights_that_sum_to_one() -> None:
    counts = [1, 7, 2, 30]
    for aggregation in AGGREGATIONS.values():
        weights = aggregation(counts)
        assert sum(w * n for w, n in zip(weights, counts, strict=True)) == pytest.approx(1.0)


def test_the_wilson_interval_matches_published_values() -> None:
    # Newcombe 1998, Statistics in Medicine 17, table I: 81/263 and 0/20 by the score method.
    rate = success_rate(81, 263)
    assert (rate.low, rate.high) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    none = success_rate(0, 20)
    assert (none.rate, none.low, none.high) == pytest.approx((0.0, 0.0, 0.1611), abs=5e-5)


def test_a_perfect_rate_keeps_an_upper_bound_of_one() -> None:
    rate = success_rate(10, 10)
    assert rate.high == pytest.approx(1.0)
    assert rate.low < 0.8


@pytest.mark.parametrize(("successes", "episodes"), [(0, 0), (3, 2), (-1, 2)])
def test_an_impossible_count_is_refused(successes: int, episodes: int) -> None:
    with pytest.raises(ValueError):
        success_rate(successes, episodes)


def test_the_mean_of_nothing_is_not_known() -> None:
    assert mean([1.0, 3.0]) == 2.0
    assert math.isnan(mean([]))
