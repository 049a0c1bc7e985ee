"""Tokens that are guessed and checked in one pass, on a stand-in for a GPU (`late_card.py`)."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, PreTrainedModel

from astuner.engine.continuous import ContinuousBatchingEngine
from astuner.engine.draws import Draws
from astuner.engine.scheduler import Draft
from astuner.engine.speculation import MOST_ROWS, Finished, Payoff, Speculation
from astuner.types import Completion
from tests.late_card import LateCard
from tests.test_local_engine import generate_all, prompt, sampling
from tests.test_look_ahead import (
    SMALL,
    assert_alike,
    calls,
    generate_while_one_is_given_up,
    late_engine,
    page_bytes,
)
from tests.tiny_model import make_tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedModel:
    folder: Path = tmp_path_factory.mktemp("tiny")
    make_tiny_model(folder)
    return AutoModelForCausalLM.from_pretrained(folder)


class Paying(Payoff):
    """Guesses are made from the first pass on, whether it pays or not."""

    def __init__(self) -> None:
        super().__init__()
        self.is_on = True

    def note(
        self, seconds: float, num_drafts: int, num_tokens: int, *, num_passes: int = 1
    ) -> None:
        pass


class Eager(Speculation):
    """Guesses wherever it can, and what it is told to."""

    def __init__(self, guess: Callable[[Draft], Sequence[int]] | None = None) -> None:
        super().__init__()
        self.payoff = Paying()
        self._told = guess

    def guess(self, draft: Draft, num_drafts: int) -> Sequence[int]:
        return self._told(draft) if self._told else super().guess(draft, num_drafts)


def guessing_engine(
    model: PreTrainedModel, speculation: Speculation, **limits: Any
) -> tuple[ContinuousBatchingEngine, LateCard]:
    engine, card = late_engine(model, replace(SMALL, **limits))
    engine._writer._speculation = speculation
    return engine, card


def guesser(kind: str, expected: Sequence[Completion]) -> Callable[[Draft], Sequence[int]]:
    """Of what completions will say: right, wrong from some place on, or anything."""

    def guess(draft: Draft) -> Sequence[int]:
        done = len(draft.ids) - draft.num_prompt
        rest = list(expected[int(draft.request.caller)].ids[done : done + 4])
        if kind == "right":
            return rest
        if kind == "too long":
            return [*rest, 3, 3, 3]
        if kind == "at times" and done % 3:
            return []
        wrong = done % 4
        return [*rest[:wrong], *((token + 1) % 40 for token in rest[wrong:])]

    return guess


@pytest.mark.parametrize("kind", ["right", "too long", "wrong", "at times"])
@pytest.mark.parametrize("cache_pages", [100, 9])
def test_whatever_is_guessed_the_tokens_are_those_of_passes_without_guesses(
    model: PreTrainedModel, kind: str, cache_pages: int
) -> None:
    limits = replace(SMALL, max_cache_bytes=cache_pages * page_bytes(model))
    expected = generate_all(ContinuousBatchingEngine(model, limits, seed=0), calls())
    engine, card = guessing_engine(
        model, Eager(guesser(kind, expected)), max_cache_bytes=cache_pages * page_bytes(model)
    )
    found = generate_all(engine, calls())
    assert_alike(found, expected)
    assert card.num_guessed > 5
    assert engine.tokens_sampled == sum(len(one.ids) for one in expected)
    assert {one.finish_reason for one in expected} == {"stop", "length"}


def test_guesses_are_checked_in_a_pass_of_its_own_whatever_was_planned(
    model: PreTrainedModel,
) -> None:
    asked = [(prompt(1, 6), sampling(max_new_tokens=60))]
    expected = generate_all(ContinuousBatchingEngine(model, SMALL, seed=0), asked)
    engine, card = guessing_engine(model, Eager(guesser("wrong", expected)))
    writer: Any = engine._writer
    writer._plan = lambda: writer._scheduler.next_batch(reads_beside=True, at_once=4)
    step = writer.step

    def step_and_check() -> list[Any]:
        finished = step()
        assert all(one.num_cached < one.num_tokens for one in writer._scheduler.running)
        return finished

    writer.step = step_and_check
    assert_alike(generate_all(engine, asked), expected)
    assert card.num_guessed


def test_right_guesses_save_passes(model: PreTrainedModel) -> None:
    asked = [(prompt(1, 6), sampling(max_new_tokens=41))]
    expected = generate_all(ContinuousBatchingEngine(model, SMALL, seed=0), asked)
    engine, card = guessing_engine(model, Eager(guesser("right", expected)))
    assert_alike(generate_all(engine, asked), expected)
    assert len(card.pass_sizes) <= 10 and max(card.pass_sizes) == 5
    assert (card._rows.tables == card._rows.spare_page).all()


def test_what_was_written_before_is_guessed_again(model: PreTrainedModel) -> None:
    """The most probable tokens of a tiny model repeat themselves, and each other's."""
    asked = [(prompt(i % 2, 6), sampling(temperature=0.0, max_new_tokens=40)) for i in range(4)]
    expected = generate_all(ContinuousBatchingEngine(model, SMALL, seed=0), asked)
    engine, card = guessing_engine(model, Eager(), max_num_seqs=1)
    assert_alike(generate_all(engine, asked), expected)
    assert card.num_guessed > 20


def test_a_reply_that_its_observer_cuts_inside_of_a_right_guess_ends_there(
    model: PreTrainedModel,
) -> None:
    asked = [(prompt(1, 6), sampling(max_new_tokens=30))]
    expected = generate_all(ContinuousBatchingEngine(model, SMALL, seed=0), asked)
    engine, card = guessing_engine(model, Eager(guesser("right", expected)))
    told: list[int] = []

    def wants_no_more(ids: Sequence[int]) -> bool:
        told.extend(ids)
        return len(told) == 8

    async def run() -> Completion:
        async with engine.serving():
            return await engine.generate(*asked[0], caller="0", observe=wants_no_more)

    found = asyncio.run(run())
    assert card.num_guessed
    assert found.finish_reason == "cut" and list(found.ids) == told == list(expected[0].ids[:8])


def test_a_request_that_is_cancelled_while_guesses_are_checked_leaves_the_others_as_they_are(
    model: PreTrainedModel,
) -> None:
    asked = [(prompt(i, 5), sampling(max_new_tokens=40)) for i in range(3)]
    expected = generate_all(ContinuousBatchingEngine(model, SMALL, seed=0), asked)

    engine, _ = guessing_engine(model, Eager())
    assert_alike(generate_while_one_is_given_up(engine, asked), expected)


def test_a_run_takes_up_guessing_and_leaves_it_by_what_it_measures(model: PreTrainedModel) -> None:
    """With the real measure: on a CPU a pass of many rows costs more, so either may win."""
    asked = [(prompt(i % 2, 6), sampling(temperature=0.0, max_new_tokens=80)) for i in range(4)]
    expected = generate_all(ContinuousBatchingEngine(model, SMALL, seed=0), asked)
    engine, card = late_engine(model)
    assert_alike(generate_all(engine, asked), expected)
    assert card.num_guessed


def test_nothing_is_guessed_where_the_setting_says_no(model: PreTrainedModel) -> None:
    asked = [(prompt(1, 6), sampling(temperature=0.0, max_new_tokens=40))]
    engine, card = guessing_engine(model, Eager(), speculates=False)
    generate_all(engine, asked)
    assert not card.num_guessed


def draft(ids: Sequence[int], num_prompt: int) -> Draft:
    return Draft(
        request=None,
        ids=list(ids),
        num_prompt=num_prompt,
        max_tokens=1000,
        stop_ids=frozenset(),
    )


def test_a_guess_is_what_stood_behind_the_same_three_tokens() -> None:
    speculation = Speculation()
    speculation.learn(draft([9, 9, 1, 2, 3, 4, 5, 6], num_prompt=4))
    assert list(speculation.guess(draft([7, 2, 3, 4], 1), 1)) == [5, 6]
    assert list(speculation.guess(draft([9, 1, 2], 3), 1)) == [3, 4, 5, 6]  # behind the prompt
    assert not speculation.guess(draft([9, 9, 1], 3), 1)  # of a prompt nothing is learned
    assert not speculation.guess(draft([4, 5, 6], 1), 1)  # nothing stood behind
    assert not speculation.guess(draft([2, 3], 1), 1)


def test_a_completion_repeats_itself_rather_than_others() -> None:
    speculation = Speculation()
    speculation.learn(draft([1, 2, 3, 4], 1))
    growing = draft([1, 2, 3, 8, 8, 1, 2, 3], 1)
    assert list(speculation.guess(growing, 1)) == [8, 8, 1, 2, 3]
    growing.ids += [9, 1, 2, 3]
    assert list(speculation.guess(growing, 1)) == [9, 1, 2, 3]  # the last time counts


@given(st.lists(st.integers(0, 2), min_size=1, max_size=40), st.integers(1, 20))
def test_guesses_of_a_draft_that_grows_by_pieces_are_those_of_the_whole(
    ids: list[int], piece: int
) -> None:
    growing, whole = Speculation(), Speculation()
    one = draft([], 0)
    for start in range(0, len(ids), piece):
        one.ids += ids[start : start + piece]
        found = growing.guess(one, 2)
        assert list(found) == list(whole.guess(draft(one.ids, 0), 2))
        assert not found or list(one.ids[-3:]) + list(found[:1]) in [
            one.ids[i : i + 4] for i in range(len(one.ids) - 3)
        ]


@pytest.mark.parametrize("num_drafts", [1, 2, 7, 16])
def test_guesses_of_all_drafts_fit_into_a_pass(num_drafts: int) -> None:
    speculation = Speculation()
    guess = speculation.guess(draft([1, 1, 1] * 40, 1), num_drafts)
    assert 0 < num_drafts * (1 + len(guess)) <= MOST_ROWS


@pytest.mark.parametrize("is_new", [True, False])
def test_old_completions_are_forgotten(monkeypatch: pytest.MonkeyPatch, is_new: bool) -> None:
    """By their tokens: those that say nearly the same share places, but not their memory."""
    monkeypatch.setattr("astuner.engine.speculation._MAX_KNOWN", 100)
    speculation = Speculation()
    for i in range(0, 900, 3):
        first = i if is_new else 0
        speculation.learn(draft([first, first + 1, first + 2, first + 3, i + 1000], 0))
    if is_new:
        assert not speculation.guess(draft([0, 1, 2], 0), 1)
        assert list(speculation.guess(draft([897, 898, 899], 0), 1)) == [900, 1897]
    assert speculation.finished.num_tokens <= 100


@given(
    st.lists(st.lists(st.integers(0, 2), max_size=9), max_size=12),
    st.sampled_from([0, 6, 1000]),
    st.sets(st.integers(0, 11)),
)
def test_what_stands_behind_a_context_is_the_newest_of_all_that_finished(
    texts: list[list[int]], most_single: int, looked_at: set[int]
) -> None:
    finished = Finished()
    newest: dict[tuple[int, ...], list[int]] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("astuner.engine.speculation._MAX_SINGLE", most_single)
        for number, ids in enumerate(texts):
            finished.add(ids)
            newest |= {(*ids[at : at + 3],): ids[at + 3 :] for at in range(len(ids) - 3)}
            for context in product(range(3), repeat=3) if number in looked_at else ():
                expected = newest.get(context, [])[:4]
                assert list(finished.behind(context, 4)) == expected


def num_with_guesses(
    payoff: Payoff, count: int, *, seconds: float, tokens: int, drafts: int = 4
) -> int:
    """Of so many passes; those without take a second and give each draft a token."""
    found = 0
    for _ in range(count):
        is_on = payoff.is_on
        payoff.note(seconds if is_on else 1.0, drafts, tokens if is_on else drafts)
        found += is_on
    return found


@settings(max_examples=50)
@given(st.floats(1.0, 8.0), st.integers(4, 36))
def test_guesses_are_made_where_they_write_more_tokens_a_second_and_seldom_tried_where_not(
    seconds: float, tokens: int
) -> None:
    found = num_with_guesses(Payoff(), 20_000, seconds=seconds, tokens=tokens)
    if tokens / 4 > seconds:
        assert found > 0.9 * 20_000
    else:
        assert Payoff.SHORTEST <= found < 0.02 * 20_000


def test_a_pass_that_took_long_for_once_decides_nothing() -> None:
    payoff = Payoff()
    num_with_guesses(payoff, Payoff.SHORTEST, seconds=1.0, tokens=4)
    for i in range(Payoff.SHORTEST):
        assert payoff.is_on
        payoff.note(100.0 if i == 0 else 1.2, 4, 8)
    num_with_guesses(payoff, Payoff.SHORTEST, seconds=1.0, tokens=4)
    assert payoff.is_on


def test_a_clock_that_stands_still_ends_nothing() -> None:
    payoff = Payoff()
    for _ in range(1000):
        payoff.note(0.0, 2, 2)


@pytest.mark.parametrize("many", ["waiting", "exact"])
def test_passes_in_which_nothing_can_be_guessed_say_nothing_about_guessing(
    model: PreTrainedModel, many: str
) -> None:
    """Others wait, or calls want their tokens chosen from all probabilities."""
    noted = []

    class Noting(Paying):
        def note(
            self, seconds: float, num_drafts: int, num_tokens: int, *, num_passes: int = 1
        ) -> None:
            noted.append(num_drafts)

    speculation = Eager()
    speculation.payoff = Noting()
    engine, _ = guessing_engine(model, speculation, max_num_seqs=2)
    wanted = sampling(temperature=1.0, top_p=0.9 if many == "exact" else 1.0, max_new_tokens=8)
    generate_all(engine, [(prompt(i, 6), wanted) for i in range(20 if many == "waiting" else 2)])
    # Of twenty, the last sixteen are few; by twos, that is half of their passes or less.
    assert len(noted) == 0 if many == "exact" else 0 < len(noted) <= 8 * 8


def test_what_became_slower_is_found_out() -> None:
    payoff = Payoff()
    assert num_with_guesses(payoff, 10_000, seconds=1.5, tokens=8) > 9_000
    assert num_with_guesses(payoff, 10_000, seconds=2.5, tokens=8) < 1_500


@given(st.lists(st.integers(0, 5), max_size=30))
def test_numbers_that_were_looked_at_come_in_the_same_order(looks: list[int]) -> None:
    plain, looked = Draws("a"), Draws("a")
    for count in looks:
        ahead = looked.look(count)
        taken = [looked.take() for _ in range((count + 1) // 2)]
        assert taken == [plain.take() for _ in taken]
        assert ahead[: len(taken)] == taken[: len(ahead)]
