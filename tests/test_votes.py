"""What several answers of a judge's model come to."""

import asyncio

import pytest

from astuner.errors import ConfigError, LlmBudgetError, LlmError
from astuner.task_judge.asking.votes import Vote, decide, gather_votes, vote_temperature


def votes(*scores: float, threshold: float = 5.0) -> list[Vote]:
    return [
        Vote(score=score, is_success=score >= threshold, reason=f"because {score:g}")
        for score in scores
    ]


def gathered(*outcomes: Vote | Exception):
    async def ask(index: int) -> Vote:
        outcome = outcomes[index]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    return asyncio.run(gather_votes(ask, len(outcomes)))


def test_the_mean_is_a_success_from_the_threshold_on():
    decision = decide(votes(2, 6, 10), "mean", success_threshold=5.0)
    assert (decision.score, decision.is_success) == (6.0, True)
    assert decision.agreement == pytest.approx(2 / 3)
    assert decision.reason == "because 6"
    assert not decide(votes(2, 3, 9), "mean", success_threshold=5.0).is_success


def test_the_majority_is_the_score_that_most_votes_gave():
    decision = decide(votes(9, 2, 9), "majority", success_threshold=5.0)
    assert (decision.score, decision.is_success) == (9.0, True)
    assert decision.reason == "because 9"


def test_an_even_split_is_the_lower_score_and_no_success():
    decision = decide(votes(9, 2, 9, 2), "majority", success_threshold=5.0)
    assert (decision.score, decision.is_success, decision.agreement) == (2.0, False, 0.5)
    assert decide(votes(9, 2), "mean", success_threshold=None).is_success is False


def test_scores_that_are_all_different_have_no_majority_but_their_success_has():
    decision = decide(votes(7, 3, 8), "majority", success_threshold=5.0)
    assert (decision.score, decision.is_success) == (3.0, True)


def test_a_single_vote_agrees_with_itself():
    for rule in ("mean", "majority"):
        decision = decide(votes(4), rule, success_threshold=5.0)
        assert (decision.score, decision.is_success, decision.agreement) == (4.0, False, 1.0)


def test_without_a_threshold_more_than_half_of_the_votes_say_what_is_a_success():
    said = [Vote(score=score, is_success=score < 3, reason="") for score in (1, 2, 9)]
    assert decide(said, "mean", success_threshold=None).is_success
    assert decide(said, "mean", success_threshold=None).agreement == pytest.approx(2 / 3)


def test_a_failed_vote_is_left_out_while_more_than_half_are_there():
    one, two = votes(1, 2)
    assert gathered(one, LlmError("nothing"), two) == (one, two)
    with pytest.raises(LlmError, match="first"):
        gathered(one, LlmError("first"), LlmError("second"))
    with pytest.raises(LlmError, match="first"):
        gathered(one, LlmError("first"))


def test_what_ends_the_run_is_no_failed_vote():
    for error in (LlmBudgetError("used up"), ConfigError("refused")):
        with pytest.raises(type(error)):
            gathered(*votes(1, 2, 3), error)


def test_votes_are_given_up_with_whoever_asked_for_them():
    async def run() -> list[str]:
        ended: list[str] = []

        async def ask(index: int) -> Vote:
            if index == 1:
                raise LlmBudgetError("used up")
            try:
                await asyncio.Event().wait()
            finally:
                ended.append(f"vote {index}")
            raise AssertionError

        with pytest.raises(LlmBudgetError):
            await gather_votes(ask, 3)
        await asyncio.sleep(0)
        return ended

    assert asyncio.run(run()) == ["vote 0", "vote 2"]


def test_several_votes_are_drawn_unless_the_temperature_is_chosen():
    assert vote_temperature(None, 1) == 0.0
    assert vote_temperature(None, 3) > 0.0
    assert vote_temperature(0.2, 3) == 0.2
