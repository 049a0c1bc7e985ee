"""Passes that begin before the tokens of the last one are known, as a GPU's do (`late_card.py`)."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

import astuner.engine.scheduler as scheduler_module
from astuner.engine.continuous import ContinuousBatchingEngine
from astuner.engine.limits import EngineLimits
from astuner.engine.pace import Pace
from astuner.engine.pages import Pages
from astuner.engine.protocol import Sampling
from astuner.engine.scheduler import Chunk, Draft, PassBatch, Scheduler
from astuner.errors import EngineError
from astuner.types import Completion
from tests.late_card import LateCard
from tests.test_local_engine import generate_all, prompt, sampling
from tests.tiny_model import make_tiny_model

SMALL = EngineLimits(max_num_seqs=5, max_model_len=96)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedModel:
    folder: Path = tmp_path_factory.mktemp("tiny")
    make_tiny_model(folder)
    return AutoModelForCausalLM.from_pretrained(folder)


class SteadyPace(Pace):
    """So many passes at once, whatever the card does."""

    def __init__(self, num_passes: int) -> None:
        super().__init__()
        self.num_passes = num_passes

    def note(self, *, ran_out: bool) -> None:
        pass


def page_bytes(model: PreTrainedModel, page_size: int = SMALL.page_size) -> int:
    """Of keys and values in float32."""
    config: Any = model.config
    head_size = config.hidden_size // config.num_attention_heads
    of_token = 2 * 4 * config.num_hidden_layers * config.num_key_value_heads * head_size
    return of_token * page_size


def late_engine(
    model: PreTrainedModel, limits: EngineLimits = SMALL
) -> tuple[ContinuousBatchingEngine, LateCard]:
    """Which soon begins several passes at once, since this card is always done with the last."""
    engine = ContinuousBatchingEngine(model, limits, seed=0)
    card = engine._writer._graphs = LateCard(engine._writer)
    return engine, card


def assert_alike(found: Sequence[Completion], expected: Sequence[Completion]) -> None:
    assert [one.ids for one in found] == [one.ids for one in expected]
    assert [one.finish_reason for one in found] == [one.finish_reason for one in expected]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.logprobs, other.logprobs, atol=1e-4, rtol=0)


def generate_while_one_is_given_up(
    engine: ContinuousBatchingEngine, asked: Sequence[tuple[list[int], Sampling]]
) -> list[Completion]:
    """What is asked, beside a longer call that is cancelled once it has a token."""

    async def run() -> list[Completion]:
        async with engine.serving():
            begun, loop = asyncio.Event(), asyncio.get_running_loop()

            def tell(ids: Sequence[int]) -> bool:
                loop.call_soon_threadsafe(begun.set)
                return False

            given_up = asyncio.ensure_future(
                engine.generate(
                    prompt(9, 5), sampling(max_new_tokens=90), caller="given up", observe=tell
                )
            )
            tasks = [engine.generate(*one, caller=str(i)) for i, one in enumerate(asked)]
            others = asyncio.gather(*tasks)
            await begun.wait()
            given_up.cancel()
            found = await others
            assert given_up.cancelled()
            assert not engine._writer.load.num_running and not engine._writer._speculation._own
            return found

    return asyncio.run(run())


def calls() -> list[tuple[list[int], Sampling]]:
    """Lengths, temperatures, cuts of the distribution and ends all differ."""
    return [
        (
            prompt(i % 4, 3 + 5 * (i % 4)) + prompt(i, i % 7),
            sampling(
                temperature=[1.0, 0.6, 0.0][i % 3],
                top_p=0.8 if i % 5 == 0 else 1.0,
                max_new_tokens=1 + 4 * (i % 6),
                stop_ids=frozenset(range(i % 40)),
            ),
        )
        for i in range(24)
    ]


@pytest.mark.parametrize("cache_pages", [100, 9])
def test_the_draws_and_the_tokens_are_those_of_passes_that_wait(
    model: PreTrainedModel, cache_pages: int
) -> None:
    limits = replace(SMALL, max_cache_bytes=cache_pages * page_bytes(model))
    expected = generate_all(ContinuousBatchingEngine(model, limits, seed=0), calls())
    engine, card = late_engine(model, limits)
    assert_alike(generate_all(engine, calls()), expected)
    assert card.num_ahead > 20
    assert {one.finish_reason for one in expected} == {"stop", "length"}
    assert engine.tokens_sampled == sum(len(one.ids) for one in expected)


@pytest.mark.parametrize("cache_pages", [100, 9])
@pytest.mark.parametrize(("most_read", "most_keys"), [(256, 2**19), (1, 2**19), (17, 300)])
def test_turns_that_are_read_while_others_grow_change_no_token(
    model: PreTrainedModel,
    monkeypatch: pytest.MonkeyPatch,
    cache_pages: int,
    most_read: int,
    most_keys: int,
) -> None:
    monkeypatch.setattr(scheduler_module, "MOST_READ_BESIDE", most_read)
    monkeypatch.setattr(scheduler_module, "_MOST_KEYS_BESIDE", most_keys)
    limits = replace(SMALL, max_cache_bytes=cache_pages * page_bytes(model))

    async def act(engine: ContinuousBatchingEngine, agent: int) -> list[Completion]:
        said, found = prompt(agent % 3, 4 + agent), []
        for turn in range(4):
            asked = sampling(max_new_tokens=2 + (agent + turn) % 5, top_p=0.9 if agent == 4 else 1)
            found.append(await engine.generate(said, asked, caller=str(agent), index=turn))
            said = [*said, *found[-1].ids, *prompt(agent, 1 + 3 * turn)]
        return found

    async def act_all(engine: ContinuousBatchingEngine) -> list[Completion]:
        async with engine.serving():
            acting = [act(engine, agent) for agent in range(8)]
            return [one for found in await asyncio.gather(*acting) for one in found]

    expected = asyncio.run(act_all(ContinuousBatchingEngine(model, limits, seed=0)))
    engine, card = late_engine(model, limits)
    assert_alike(asyncio.run(act_all(engine)), expected)
    assert card.num_read > 20 or most_read == 1


def draft_of(num_ids: int, *, num_cached: int) -> Draft:
    return Draft(
        request=None,
        ids=[5] * num_ids,
        num_prompt=num_ids,
        max_tokens=num_ids + 50,
        stop_ids=frozenset(),
        num_cached=num_cached,
    )


def test_a_piece_of_one_token_that_does_not_end_its_prompt_is_not_taken_for_growing() -> None:
    piece, last, growing = (
        draft_of(40, num_cached=16),
        draft_of(40, num_cached=38),
        draft_of(20, num_cached=19),
    )
    batch = PassBatch([growing], [Chunk(piece, 16, 17), Chunk(last, 38, 40)])
    assert batch.getting == [growing, last]
    assert [(start, end) for _, start, end in batch] == [(19, 20), (16, 17), (38, 40)]


@pytest.mark.parametrize("num_passes", [1, 2, 3, 4])
@pytest.mark.parametrize("cache_pages", [100, 12, 6])
def test_tokens_are_the_same_however_many_passes_are_begun_at_once(
    model: PreTrainedModel, cache_pages: int, num_passes: int
) -> None:
    limits = replace(SMALL, max_cache_bytes=cache_pages * page_bytes(model), speculates=False)
    asked = [(ids, replace(sampling, top_p=1.0)) for ids, sampling in calls()]
    expected = generate_all(ContinuousBatchingEngine(model, limits, seed=0), asked)
    engine, card = late_engine(model, limits)
    engine._writer._pace = SteadyPace(num_passes)
    assert_alike(generate_all(engine, asked), expected)
    assert (card.num_behind > 30) == (num_passes > 1)
    assert {one.finish_reason for one in expected} == {"stop", "length"}


@pytest.mark.parametrize(
    ("unread", "read", "num_passes"),
    [
        ([700], [700], [4, 4]),
        ([700, 300], [700, 300], [4, 4, 4]),
        ([700, 500], [700, 320], [1, 1]),  # whole pages
        ([900] * 4, [900, 112], [1, 1]),
        ([900] * 5, [256], [1]),  # more than four such passes read
    ],
)
def test_prompts_are_read_for_all_passes_that_are_begun_at_once_and_none_goes_on_while_one_waits(
    unread: list[int], read: list[int], num_passes: list[int]
) -> None:
    scheduler = Scheduler(Pages(1000, 16), max_num_seqs=8, max_batch_tokens=9000)
    growing = draft_of(20, num_cached=19)
    prompts = [draft_of(num_ids, num_cached=0) for num_ids in unread]
    for token, one in enumerate(prompts):
        one.ids[0] = token
    scheduler._running = [growing, *prompts]
    batch = scheduler.next_batch(reads_beside=True, at_once=4)
    assert [end - start for _, start, end in batch] == [1, *read]
    assert batch.num_passes == num_passes


def test_more_passes_are_begun_at_once_where_the_card_ran_out_of_them_and_fewer_where_not() -> None:
    def note(*ran_out: bool) -> int:
        for one in ran_out:
            pace.note(ran_out=one)
        return pace.num_passes

    pace = Pace()
    assert note(*[True] * 3, False, True) == 1
    assert note(True) == 2
    assert note(*[True, True, False] * 4) == 4
    assert note(*[True] * 9) == 4
    assert note(*[False] * 31, True, *[False] * 31) == 4
    assert note(False) == 2
    assert note(*[False] * 31) == 2
    assert note(False) == 1
    assert note(*[False] * 99) == 1
    assert note(*[True, False] * 99) == 1


def test_an_observer_is_told_of_no_token_behind_the_one_that_it_wants_to_be_the_last(
    model: PreTrainedModel,
) -> None:
    engine, _ = late_engine(model)
    told: list[int] = []

    def wants_no_more(ids: Sequence[int]) -> bool:
        told.extend(ids)
        return len(told) == 5

    async def run() -> Completion:
        async with engine.serving():
            other = engine.generate(prompt(1, 4), sampling(max_new_tokens=30), caller="other")
            watched = engine.generate(
                prompt(2, 6), sampling(max_new_tokens=30), caller="one", observe=wants_no_more
            )
            return (await asyncio.gather(watched, other))[0]

    found = asyncio.run(run())
    assert found.finish_reason == "cut" and list(found.ids) == told and len(told) == 5


def test_a_request_that_is_cancelled_in_the_pass_under_way_leaves_the_others_as_they_are(
    model: PreTrainedModel,
) -> None:
    asked = [(prompt(i, 5), sampling(max_new_tokens=40)) for i in range(4)]
    expected = generate_all(ContinuousBatchingEngine(model, SMALL, seed=0), asked)
    engine, _ = late_engine(model)

    assert_alike(generate_while_one_is_given_up(engine, asked), expected)


def test_logits_that_are_not_finite_end_the_calls_although_they_are_seen_a_pass_late(
    model: PreTrainedModel,
) -> None:
    engine, _ = late_engine(model)
    weight: Any = model.get_parameter("lm_head.weight")
    with torch.no_grad():
        kept = weight[0, 0].clone()
        weight[0, 0] = float("nan")
    try:
        with pytest.raises(EngineError, match="not finite"):
            generate_all(engine, [([5, 6], sampling())])
    finally:
        with torch.no_grad():
            weight[0, 0] = kept
    assert len(generate_all(engine, [([5, 6], sampling())])[0].ids) == 12


@pytest.mark.parametrize("max_batch_tokens", [1, 3, 4])
def test_a_single_token_of_a_prompt_that_goes_on_gives_none(
    model: PreTrainedModel, max_batch_tokens: int
) -> None:
    """Three of four have known pages but for a last token, so that a pass has one of each."""
    greedy = sampling(temperature=0.0, max_new_tokens=6)
    asked = [*[(prompt(1, 17), greedy)] * 4, (prompt(2, 12), greedy)]
    expected = generate_all(ContinuousBatchingEngine(model, SMALL, seed=0), asked)
    engine, card = late_engine(model, replace(SMALL, max_batch_tokens=max_batch_tokens))
    assert_alike(generate_all(engine, asked), expected)
    assert card.num_ahead


def test_nothing_of_a_serving_is_kept_among_the_rows(model: PreTrainedModel) -> None:
    engine, card = late_engine(model)
    generate_all(engine, calls())
    assert not card._rows._views and not card._rows._drafts
    assert (card._rows.tables == card._rows.spare_page).all()
