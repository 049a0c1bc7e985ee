"""Advantages, losses, KL estimates and rates against numbers worked by hand."""

import math
import random

import pytest
import torch

from astuner.algorithm.advantage import ADVANTAGES, checked_advantages, has_spread
from astuner.algorithm.kl import KL_ESTIMATORS
from astuner.algorithm.loss import (
    AGGREGATIONS,
    IMPORTANCE_WEIGHTS,
    LOSSES,
    LossInputs,
    SampleSize,
)
from astuner.algorithm.metrics import mean, success_rate
from astuner.algorithm.penalty import overlong_penalty
from astuner.errors import BackboneError

REWARDS = [[0.0, 2.0, 4.0], [1.0, 0.0, 0.0, 0.0], [3.0, 3.0]]


def test_grpo_centres_rewards_and_divides_by_the_sample_deviation() -> None:
    # Mean 2, squared distances 4 + 0 + 4, divisor 2: deviation 2.
    # Mean 0.25, squared distances 3 * 1/16 + 9/16 = 3/4, divisor 3: deviation 1/2.
    expected = [[-1.0, 0.0, 1.0], [1.5, -0.5, -0.5, -0.5], [0.0, 0.0]]
    assert_close(ADVANTAGES["grpo"](REWARDS), expected)


def test_dr_grpo_only_centres() -> None:
    expected = [[-2.0, 0.0, 2.0], [0.75, -0.25, -0.25, -0.25], [0.0, 0.0]]
    assert_close(ADVANTAGES["dr_grpo"](REWARDS), expected)


def test_rloo_compares_each_reward_with_the_mean_of_the_others() -> None:
    # 0 - (2 + 4) / 2, 2 - (0 + 4) / 2, 4 - (0 + 2) / 2; 1 - 0, 0 - 1 / 3.
    expected = [[-3.0, 0.0, 3.0], [1.0, -1 / 3, -1 / 3, -1 / 3], [0.0, 0.0]]
    assert_close(ADVANTAGES["rloo"](REWARDS), expected)


def test_reinforce_plus_plus_standardizes_over_the_step() -> None:
    # Of 0, 2, 4, 6: mean 3, squared distances 9 + 1 + 1 + 9 = 20, divisor 3.
    deviation = math.sqrt(20 / 3)
    expected = [[-3 / deviation, -1 / deviation], [1 / deviation, 3 / deviation]]
    assert_close(ADVANTAGES["reinforce_plus_plus"]([[0.0, 2.0], [4.0, 6.0]]), expected)
    flat = ADVANTAGES["reinforce_plus_plus"]([[1.0, 1.0], [0.0, 0.0]])
    assert flat[0][0] == -flat[1][0] > 0


def test_reinforce_plus_plus_with_a_baseline_centres_each_group_first() -> None:
    # Centred: -1, 1 and -2, 2; squares add up to 10, divisor 3.
    deviation = math.sqrt(10 / 3)
    expected = [[-1 / deviation, 1 / deviation], [-2 / deviation, 2 / deviation]]
    assert_close(ADVANTAGES["reinforce_plus_plus_baseline"]([[0.0, 2.0], [5.0, 9.0]]), expected)


def assert_close(found: list[list[float]], expected: list[list[float]]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, abs=1e-5)


def test_a_group_of_equal_rewards_gives_exact_zeros() -> None:
    for name in ("grpo", "dr_grpo", "rloo", "reinforce_plus_plus_baseline"):
        assert ADVANTAGES[name]([[0.1, 0.1, 0.1], [7.0]]) == [[0.0, 0.0, 0.0], [0.0]]
    assert not has_spread([0.1] * 3)
    assert has_spread([0.0, 1.0])


def test_advantages_sum_to_zero_and_keep_the_order_of_the_rewards() -> None:
    generator = random.Random(0)
    for _ in range(50):
        rewards = [generator.uniform(-5, 5) for _ in range(generator.randint(2, 16))]
        for function in ADVANTAGES.values():
            (advantages,) = function([rewards])
            assert sum(advantages) == pytest.approx(0.0, abs=1e-9)
            ranked = sorted(range(len(rewards)), key=rewards.__getitem__)
            assert ranked == sorted(range(len(rewards)), key=advantages.__getitem__)


def test_rewards_that_differ_by_rounding_only_stay_near_zero() -> None:
    for function in ADVANTAGES.values():
        assert max(map(abs, function([[1.0, 1.0 + 1e-12]])[0])) < 1e-5


@pytest.mark.parametrize("rewards", [[], [math.nan, 1.0], [1.0, math.inf]])
def test_a_group_that_is_empty_or_not_finite_is_refused(rewards: list[float]) -> None:
    for function in ADVANTAGES.values():
        with pytest.raises(ValueError):
            function([rewards])
    with pytest.raises(ValueError):
        has_spread(rewards)


def test_a_function_of_the_users_must_give_a_finite_number_for_each_reward() -> None:
    assert checked_advantages(lambda groups: [[1, 2]], [[0.0, 1.0]]) == [[1.0, 2.0]]
    with pytest.raises(BackboneError, match=r"gave groups of \[1\] values for groups of \[2\]"):
        checked_advantages(lambda groups: [[1.0]], [[0.0, 1.0]])
    with pytest.raises(BackboneError, match="not finite"):
        checked_advantages(lambda groups: [[math.nan, 1.0]], [[0.0, 1.0]])


def test_the_overlong_penalty_grows_over_the_buffer() -> None:
    found = [
        overlong_penalty(tokens, max_tokens=100, buffer=20, factor=2.0)
        for tokens in (0, 80, 85, 90, 100, 120)
    ]
    assert found == [0.0, 0.0, 0.5, 1.0, 2.0, 2.0]


def inputs(logprobs: torch.Tensor, **changes: object) -> LossInputs:
    given = {
        "logprobs_N": logprobs,
        "old_logprobs_N": torch.zeros_like(logprobs),
        "advantages_N": torch.ones_like(logprobs),
        "clip_low": 0.2,
        "clip_high": 0.3,
    }
    return LossInputs(**{**given, **changes})


def test_ppo_clip_matches_numbers_worked_by_hand() -> None:
    ratios = torch.tensor([1.0, 1.5, 0.5, 1.5, 0.5, 1.1])
    advantages = torch.tensor([2.0, 2.0, 2.0, -1.0, -1.0, -1.0])
    result = LOSSES["ppo_clip"](inputs(ratios.log(), advantages_N=advantages))
    # A > 0: ratios above 1.3 are clipped. A < 0: ratios below 0.8 are.
    expected = [-2.0, -2.6, -1.0, 1.5, 0.8, 1.1]
    assert result.loss_N.tolist() == pytest.approx(expected, abs=1e-6)
    assert result.is_clipped_N.tolist() == [False, True, False, False, True, False]


def test_a_clipped_token_gives_no_gradient_and_others_give_minus_advantage_times_ratio() -> None:
    logprobs = torch.tensor([0.0, 1.0, -1.0]).requires_grad_()
    result = LOSSES["ppo_clip"](inputs(logprobs, advantages_N=torch.tensor([0.5, 1.0, 1.0])))
    result.loss_N.sum().backward()
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == pytest.approx([-0.5, 0.0, -math.exp(-1)])


def test_gspo_uses_the_mean_ratio_of_the_sample_for_every_token() -> None:
    # Log ratios 0.3 and -0.1 of one sample: mean 0.1. The other sample's is log 2, clipped at 1.3.
    logprobs = torch.tensor([0.3, -0.1, math.log(2)]).requires_grad_()
    means = torch.tensor([0.1, 0.1, math.log(2)])
    result = LOSSES["gspo"](inputs(logprobs, sequence_log_ratio_N=means))
    ratio = math.exp(0.1)
    assert result.loss_N.tolist() == pytest.approx([-ratio, -ratio, -1.3])
    assert result.is_clipped_N.tolist() == [False, False, True]
    result.loss_N.sum().backward()
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == pytest.approx([-ratio, -ratio, 0.0])


def test_cispo_bounds_the_weight_and_drops_no_token() -> None:
    logprobs = torch.tensor([0.0, math.log(2), math.log(0.5)]).requires_grad_()
    result = LOSSES["cispo"](inputs(logprobs, advantages_N=torch.tensor([2.0, 1.0, -1.0])))
    result.loss_N.sum().backward()
    assert logprobs.grad is not None
    # Ratios 1, 2 and 0.5, bounded to 1, 1.3 and 0.8.
    assert logprobs.grad.tolist() == pytest.approx([-2.0, -1.3, 0.8])
    assert result.is_clipped_N.tolist() == [False, True, True]


def test_reinforce_ignores_the_ratio() -> None:
    logprobs = torch.tensor([-1.0, -3.0]).requires_grad_()
    result = LOSSES["reinforce"](inputs(logprobs, advantages_N=torch.tensor([2.0, -1.0])))
    assert result.loss_N.tolist() == [2.0, -3.0]
    result.loss_N.sum().backward()
    assert logprobs.grad is not None and logprobs.grad.tolist() == [-2.0, 1.0]


def test_at_the_sampled_policy_all_losses_have_the_same_gradient() -> None:
    for name, loss in LOSSES.items():
        logprobs = torch.tensor([-0.5, -1.5]).requires_grad_()
        result = loss(
            inputs(
                logprobs,
                old_logprobs_N=logprobs.detach(),
                advantages_N=torch.tensor([2.0, -1.0]),
                sequence_log_ratio_N=torch.zeros(2),
            )
        )
        result.loss_N.sum().backward()
        assert logprobs.grad is not None
        assert logprobs.grad.tolist() == pytest.approx([-2.0, 1.0]), name


def test_importance_weights_are_cut_off_or_masked_at_their_bound() -> None:
    ratios = torch.tensor([0.1, 0.5, 1.0, 2.0, 5.0])
    found = {n: f(ratios.log(), 2.0).tolist() for n, f in IMPORTANCE_WEIGHTS.items()}
    assert found["truncated"] == pytest.approx([0.1, 0.5, 1.0, 2.0, 2.0])
    assert found["masked"] == pytest.approx([0.0, 0.5, 1.0, 2.0, 0.0])


def test_a_ratio_that_would_overflow_stays_finite() -> None:
    far = torch.tensor([1e4, -1e4]).requires_grad_()
    loss = LOSSES["ppo_clip"](inputs(far, advantages_N=torch.tensor([-1.0, -1.0]))).loss_N
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


def sizes(*tokens: int, units: str | None = None) -> list[SampleSize]:
    names = units or "abcdefgh"[: len(tokens)]
    return [SampleSize(num_tokens=n, unit=u) for n, u in zip(tokens, names, strict=True)]


def test_aggregations_match_numbers_worked_by_hand() -> None:
    found = {name: function(sizes(1, 3), 10) for name, function in AGGREGATIONS.items()}
    assert found == {
        "token-mean": [0.25, 0.25],
        "seq-mean-token-mean": [0.5, pytest.approx(1 / 6)],
        "seq-mean-token-sum": [0.5, 0.5],
        "seq-mean-token-sum-norm": [0.05, 0.05],
    }


def test_an_episode_of_many_sequences_weighs_as_much_as_one_of_a_single_sequence() -> None:
    counts = (4, 2, 1, 1)
    for name in ("seq-mean-token-mean", "seq-mean-token-sum", "seq-mean-token-sum-norm"):
        split = AGGREGATIONS[name](sizes(*counts, units="abbb"), 10)
        whole = AGGREGATIONS[name](sizes(4, 4), 10)
        assert split[0] == whole[0]
        assert split[1:] == [whole[1]] * 3


def test_means_over_tokens_give_weights_that_sum_to_one() -> None:
    counts = (1, 7, 2, 30)
    for name in ("token-mean", "seq-mean-token-mean"):
        for units in ("abcd", "abba"):
            weights = AGGREGATIONS[name](sizes(*counts, units=units), 10)
            total = sum(w * n for w, n in zip(weights, counts, strict=True))
            assert total == pytest.approx(1.0)


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
