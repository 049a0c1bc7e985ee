"""The engine of the local backbone, on tiny random models in float32."""

import asyncio
import random
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from astuner.engine.attendance import Attendance
from astuner.engine.continuous import ContinuousBatchingEngine
from astuner.engine.limits import EngineLimits
from astuner.engine.paged_attention import GENERATION_ATTENTION
from astuner.engine.protocol import Sampling
from astuner.engine.token_chooser import TokenChooser
from astuner.engine.writer import DraftWriter
from astuner.errors import BackboneError, EngineError
from astuner.types import Completion
from tests.fakes import UnrecordableGraphs
from tests.tiny_model import make_tiny_model

SMALL = EngineLimits(max_num_seqs=8, max_model_len=256)
SIZES = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    make_tiny_model(folder)
    return folder


@pytest.fixture
def model(folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder)


def sampling(**changes: object) -> Sampling:
    settings = {
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": -1,
        "max_new_tokens": 12,
        "stop_ids": frozenset(),
    }
    return Sampling(**{**settings, **changes})


def prompt(seed: int, length: int) -> list[int]:
    stream = random.Random(seed)
    return [stream.randrange(3, 300) for _ in range(length)]


def generate_all(
    engine: ContinuousBatchingEngine, calls: Sequence[tuple[list[int], Sampling]]
) -> list[Completion]:
    async def run() -> list[Completion]:
        async with engine.serving():
            named = ((call, str(i)) for i, call in enumerate(calls))
            return await asyncio.gather(*(engine.generate(*c, caller=name) for c, name in named))

    return asyncio.run(run())


def score(
    model: PreTrainedModel, prompt_ids: list[int], ids: Sequence[int], temperature: float
) -> torch.Tensor:
    """Log-probabilities by a plain forward pass."""
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt_ids, *ids]])).logits[0, len(prompt_ids) - 1 : -1]
    logprobs = (logits / temperature).log_softmax(-1)
    return logprobs.gather(-1, torch.tensor(ids)[:, None])[:, 0]


def assert_scores_match(
    model: PreTrainedModel,
    calls: Sequence[tuple[list[int], Sampling]],
    completions: Sequence[Completion],
) -> None:
    for (prompt_ids, settings), completion in zip(calls, completions, strict=True):
        expected = score(model, prompt_ids, completion.ids, settings.temperature or 1.0)
        torch.testing.assert_close(torch.tensor(completion.logprobs), expected, atol=1e-4, rtol=0)


def mixed_calls() -> list[tuple[list[int], Sampling]]:
    """Lengths, temperatures and limits all differ; half of the prompts share a long beginning."""
    shared = prompt(99, 40)
    return [
        (
            (shared if i % 2 else []) + prompt(i, 1 + 5 * i),
            sampling(temperature=0.4 + 0.2 * i, max_new_tokens=3 + 2 * i),
        )
        for i in range(12)
    ]


def test_logprobs_are_those_of_a_plain_forward_pass_at_the_same_temperature(
    model: PreTrainedModel,
) -> None:
    calls = mixed_calls()
    completions = generate_all(ContinuousBatchingEngine(model, SMALL, seed=0), calls)
    assert_scores_match(model, calls, completions)


def test_prompts_read_in_pieces_give_the_same_logprobs(model: PreTrainedModel) -> None:
    limits = EngineLimits(max_num_seqs=3, max_model_len=256, max_batch_tokens=7)
    calls = mixed_calls()
    completions = generate_all(ContinuousBatchingEngine(model, limits, seed=0), calls)
    assert_scores_match(model, calls, completions)


def test_a_cache_too_small_for_all_sequences_only_delays_them(model: PreTrainedModel) -> None:
    limits = EngineLimits(max_num_seqs=8, max_model_len=128, max_cache_bytes=1)
    calls = [(prompt(i, 60), sampling(max_new_tokens=60)) for i in range(6)]
    completions = generate_all(ContinuousBatchingEngine(model, limits, seed=0), calls)
    assert [len(completion.ids) for completion in completions] == [60] * 6
    assert_scores_match(model, calls, completions)


@pytest.mark.parametrize(
    "make",
    [
        lambda: MistralForCausalLM(MistralConfig(**SIZES, sliding_window=9)),
        lambda: Qwen2ForCausalLM(
            Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=9, max_window_layers=2)
        ),
    ],
    ids=["every layer", "half of the layers"],
)
def test_layers_with_a_sliding_window_see_only_their_window(
    make: Callable[[], PreTrainedModel],
) -> None:
    torch.manual_seed(0)
    model = make()
    limits = EngineLimits(max_num_seqs=4, max_model_len=128, max_batch_tokens=11)
    calls = mixed_calls()[:8]
    completions = generate_all(ContinuousBatchingEngine(model, limits, seed=0), calls)
    assert_scores_match(model, calls, completions)


def test_bfloat16_logprobs_stay_close_to_those_of_a_plain_forward_pass(
    model: PreTrainedModel,
) -> None:
    model.to(torch.bfloat16)
    calls = mixed_calls()
    completions = generate_all(ContinuousBatchingEngine(model, SMALL, seed=0), calls)
    for (prompt_ids, settings), completion in zip(calls, completions, strict=True):
        expected = score(model.float(), prompt_ids, completion.ids, settings.temperature)
        model.to(torch.bfloat16)
        torch.testing.assert_close(torch.tensor(completion.logprobs), expected, atol=0.1, rtol=0)


def test_greedy_tokens_are_those_of_transformers(folder: Path, model: PreTrainedModel) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    messages = [[{"role": "user", "content": f"What is {i} plus {i}?"}] for i in range(5)]
    prompts = [
        tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_dict=False)
        for turn in messages
    ]
    calls = [(ids, sampling(temperature=0.0)) for ids in prompts]
    completions = generate_all(ContinuousBatchingEngine(model, SMALL, seed=0), calls)
    for prompt_ids, completion in zip(prompts, completions, strict=True):
        output = model.generate(
            torch.tensor([prompt_ids]),
            attention_mask=torch.ones(1, len(prompt_ids)),
            max_new_tokens=12,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
        assert completion.ids == tuple(output[0, len(prompt_ids) :].tolist())
    assert_scores_match(model, calls, completions)


def test_the_same_seed_and_names_give_the_same_tokens_however_they_are_batched(
    model: PreTrainedModel,
) -> None:
    calls = mixed_calls()
    alone = EngineLimits(max_num_seqs=1, max_model_len=256, max_batch_tokens=16)
    engines = [ContinuousBatchingEngine(model, limits, seed=5) for limits in (SMALL, alone)]
    together, one_by_one = (
        [completion.ids for completion in generate_all(engine, calls)] for engine in engines
    )
    assert together == one_by_one
    other = ContinuousBatchingEngine(model, SMALL, seed=6)
    assert together != [completion.ids for completion in generate_all(other, calls)]
    assert together == [completion.ids for completion in generate_all(engines[0], calls)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_episodes_that_dawdle_are_repeated_to_the_last_bit(
    model: PreTrainedModel, dtype: torch.dtype
) -> None:
    model.to(dtype)
    limits = EngineLimits(max_num_seqs=4, max_model_len=256, page_size=4)
    first, second = (
        run_dawdling_episodes(model, limits, dawdle=random.Random(seed)) for seed in (1, 2)
    )
    assert first == second
    assert sum(len(turns) for turns in first.values()) == 27


def run_dawdling_episodes(
    model: PreTrainedModel, limits: EngineLimits, *, dawdle: random.Random
) -> dict[str, list[Completion]]:
    """Nine episodes of three turns, three of them at a time, with pauses of any length."""
    attendance = Attendance(wait_seconds=30)
    engine = ContinuousBatchingEngine(model, limits, seed=0, attendance=attendance)
    slots = asyncio.Semaphore(3)
    episodes: dict[str, list[Completion]] = {}

    async def run_episode(name: str) -> None:
        ids = prompt(0, 17)
        async with slots:
            for turn in range(3):
                await asyncio.sleep(dawdle.choice([0, 0, 0.001, 0.01, 0.03]))
                completion = await engine.generate(ids, sampling(), caller=name, index=turn)
                episodes.setdefault(name, []).append(completion)
                ids = [*ids, *completion.ids, 7, 8]
            if dawdle.random() < 0.5:
                await asyncio.to_thread(time.sleep, 0.01)
        unfinished.remove(name)
        attendance.expect(min(3, len(unfinished)))

    unfinished = {f"episode{i}" for i in range(9)}

    async def run() -> None:
        async with engine.serving(), asyncio.timeout(60):
            attendance.expect(3)
            await asyncio.gather(*(run_episode(name) for name in sorted(unfinished)))

    asyncio.run(run())
    assert attendance.num_unsettled == 0
    return episodes


def test_a_caller_who_stays_away_holds_the_others_up_once_only(model: PreTrainedModel) -> None:
    attendance = Attendance(wait_seconds=0.5)
    engine = ContinuousBatchingEngine(model, SMALL, seed=0, attendance=attendance)

    async def run() -> float:
        async with engine.serving():
            attendance.expect(2)
            started = time.monotonic()
            await engine.generate([5, 6], sampling(max_new_tokens=40), caller="present")
            return time.monotonic() - started

    assert 0.5 <= asyncio.run(run()) < 40 * 0.5
    assert attendance.num_unsettled == 40


def test_a_stop_id_ends_a_completion_and_is_part_of_it(model: PreTrainedModel) -> None:
    engine = ContinuousBatchingEngine(model, SMALL, seed=0)
    call = (prompt(1, 9), sampling(max_new_tokens=30))
    ids = generate_all(engine, [call])[0].ids
    stop_id = next(token for i, token in enumerate(ids) if i > 3 and token not in ids[:i])
    end = ids.index(stop_id) + 1
    stopped = generate_all(engine, [(call[0], sampling(stop_ids=frozenset({stop_id, 1})))])[0]
    assert stopped.ids == ids[:end]
    assert len(stopped.logprobs) == end
    assert stopped.finish_reason == "stop"


def test_a_completion_ends_at_its_limit_or_at_the_end_of_the_context(
    model: PreTrainedModel,
) -> None:
    calls = [
        (prompt(1, 10), sampling(max_new_tokens=1)),
        (prompt(2, 250), sampling(max_new_tokens=6)),
        (prompt(3, 250), sampling(max_new_tokens=7)),
    ]
    engine = ContinuousBatchingEngine(model, SMALL, seed=0)
    completions = generate_all(engine, calls)
    assert [len(completion.ids) for completion in completions] == [1, 6, 6]
    assert [c.finish_reason for c in completions] == ["length", "length", "context_overflow"]
    assert engine.tokens_sampled == 13


@pytest.mark.parametrize("length", [0, 256])
def test_a_prompt_that_leaves_no_room_is_an_engine_error(
    model: PreTrainedModel, length: int
) -> None:
    with pytest.raises(EngineError, match=f"prompt of {length} tokens"):
        generate_all(ContinuousBatchingEngine(model, SMALL, seed=0), [([5] * length, sampling())])


def test_updated_weights_are_used_and_none_of_the_old_keys(model: PreTrainedModel) -> None:
    engine = ContinuousBatchingEngine(model, SMALL, seed=0)
    calls = [(prompt(7, 64), sampling(temperature=0.0)) for _ in range(3)]
    before = generate_all(engine, calls)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    engine.weights_updated()
    after = generate_all(engine, calls)
    assert [completion.weight_version for completion in (before[0], after[0])] == [0, 1]
    assert before[0].ids != after[0].ids
    assert_scores_match(model, calls, after)


def test_weights_cannot_be_updated_while_serving(model: PreTrainedModel) -> None:
    engine = ContinuousBatchingEngine(model, SMALL, seed=0)

    async def run() -> None:
        async with engine.serving():
            engine.weights_updated()

    with pytest.raises(BackboneError, match="serves"):
        asyncio.run(run())
    assert engine.weight_version == 0


def test_the_trainer_gets_the_model_back_as_it_was(model: PreTrainedModel) -> None:
    model.train()
    model.set_attn_implementation("eager")
    engine = ContinuousBatchingEngine(model, SMALL, seed=0)
    num_threads = threading.active_count()
    state = torch.get_rng_state()

    async def run() -> None:
        for _ in range(2):
            async with engine.serving():
                assert model.config._attn_implementation == GENERATION_ATTENTION
                assert not model.training
                await engine.generate([5, 6], sampling())

    asyncio.run(run())
    assert model.config._attn_implementation == "eager"
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    assert threading.active_count() <= num_threads
    model(torch.tensor([[5, 6, 7]])).logits.sum().backward()


def test_at_most_max_num_seqs_are_sampled_together(model: PreTrainedModel) -> None:
    batch_sizes: list[int] = []
    model.get_decoder().register_forward_pre_hook(
        lambda _module, _args, kwargs: batch_sizes.append(kwargs["paged_pass"].num_drafts),
        with_kwargs=True,
    )
    limits = EngineLimits(max_num_seqs=5, max_model_len=64)
    calls = [(prompt(i, 3 + i % 7), sampling(max_new_tokens=1 + i % 5)) for i in range(300)]
    completions = generate_all(ContinuousBatchingEngine(model, limits, seed=0), calls)
    assert [len(completion.ids) for completion in completions] == [1 + i % 5 for i in range(300)]
    assert max(batch_sizes) == 5


def test_cancelled_calls_make_room_whether_they_wait_or_run(model: PreTrainedModel) -> None:
    limits = EngineLimits(max_num_seqs=2, max_model_len=2000, max_cache_bytes=1)
    endless = sampling(max_new_tokens=1900)
    engine = ContinuousBatchingEngine(model, limits, seed=0)

    async def run() -> Completion:
        async with engine.serving():
            tasks = [asyncio.create_task(engine.generate([5, 6], endless)) for _ in range(5)]
            async with asyncio.timeout(60):
                while engine.tokens_sampled < 20:
                    await asyncio.sleep(0.01)
            for task in tasks:
                task.cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)
            async with asyncio.timeout(60):
                return await engine.generate(prompt(3, 1500), sampling())

    assert len(asyncio.run(run()).ids) == 12


def test_a_late_cancellation_does_not_reach_the_next_session(model: PreTrainedModel) -> None:
    engine = ContinuousBatchingEngine(model, SMALL, seed=0)

    async def run() -> None:
        for _ in range(3):
            async with engine.serving():
                tasks = [asyncio.create_task(engine.generate([5, i], sampling())) for i in range(9)]
                async with asyncio.timeout(60):
                    await tasks[0]
                for task in tasks:
                    task.cancel()

    asyncio.run(run())


def test_leaving_fails_the_calls_that_still_wait(model: PreTrainedModel) -> None:
    limits = EngineLimits(max_num_seqs=2, max_model_len=2000)
    engine = ContinuousBatchingEngine(model, limits, seed=0)

    async def run() -> list[BaseException | Completion]:
        endless = sampling(max_new_tokens=1900)
        async with engine.serving():
            tasks = [asyncio.create_task(engine.generate([5, 6], endless)) for _ in range(4)]
            await asyncio.sleep(0.05)
        async with asyncio.timeout(60):
            return await asyncio.gather(*tasks, return_exceptions=True)

    outcomes = asyncio.run(run())
    assert [type(outcome) for outcome in outcomes] == [EngineError] * 4
    assert "stopped serving" in str(outcomes[0])
    assert len(generate_all(engine, [([5, 6], sampling())])[0].ids) == 12


def test_a_call_outside_of_serving_is_an_engine_error_at_once(model: PreTrainedModel) -> None:
    engine = ContinuousBatchingEngine(model, SMALL, seed=0)
    with pytest.raises(EngineError, match="does not serve"):
        asyncio.run(engine.generate([5, 6], sampling()))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("error", [RuntimeError("out of memory"), SystemExit()])
def test_a_crash_of_the_generation_thread_fails_every_waiting_call_with_its_cause(
    model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    engine = ContinuousBatchingEngine(model, SMALL, seed=0)
    decoder = model.get_decoder()
    forward = decoder.forward

    def crash(**kwargs: object) -> object:
        if engine.tokens_sampled > 30:
            raise error
        return forward(**kwargs)

    async def run() -> list[BaseException | Completion]:
        async with engine.serving(), asyncio.timeout(60):
            calls = [engine.generate([5, 6 + i], sampling()) for i in range(20)]
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
            with pytest.raises(EngineError, match=type(error).__name__):
                await engine.generate([5, 6], sampling())
            return outcomes

    with monkeypatch.context() as patch:
        patch.setattr(decoder, "forward", crash)
        outcomes = asyncio.run(run())
    assert [type(outcome) for outcome in outcomes] == [EngineError] * 20
    assert all(outcome.__cause__ is error for outcome in outcomes)
    assert type(error).__name__ in str(outcomes[0])
    assert len(generate_all(engine, [([5, 6], sampling())])[0].ids) == 12


def test_a_model_whose_passes_cannot_be_recorded_generates_without(
    model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = [(prompt(i, 5), sampling(temperature=i / 2)) for i in range(3)]
    plain = generate_all(ContinuousBatchingEngine(model, SMALL, seed=0), calls)
    graphs, step = UnrecordableGraphs(), DraftWriter.step

    def step_on_a_gpu(writer: DraftWriter) -> object:
        writer._graphs = graphs
        return step(writer)

    monkeypatch.setattr(DraftWriter, "step", step_on_a_gpu)
    assert generate_all(ContinuousBatchingEngine(model, SMALL, seed=0), calls) == plain
    assert graphs.num_tries == 1


def test_logits_that_are_not_finite_are_an_error(model: PreTrainedModel) -> None:
    with torch.no_grad():
        model.lm_head.weight[0, 0] = float("nan")
    with pytest.raises(EngineError, match="not finite"):
        generate_all(ContinuousBatchingEngine(model, SMALL, seed=0), [([5, 6], sampling())])


def test_top_k_and_top_p_cut_the_distribution_as_transformers_does() -> None:
    torch.manual_seed(0)
    logits = torch.randn(6, 50) * 3
    samplings = [
        sampling(),
        sampling(top_k=1),
        sampling(temperature=0.7, top_k=5),
        sampling(top_p=0.6),
        sampling(temperature=1.5, top_k=10, top_p=0.8),
        sampling(temperature=0.0, top_k=3, top_p=0.5),
    ]
    expected = logits.clone()
    for row, settings in zip(expected.split(1), samplings, strict=True):
        scores = TemperatureLogitsWarper(settings.temperature or 1.0)(None, row)
        if settings.temperature and settings.top_k > 0:
            scores = TopKLogitsWarper(settings.top_k)(None, scores)
        if settings.temperature and settings.top_p < 1:
            scores = TopPLogitsWarper(settings.top_p)(None, scores)
        row.copy_(scores.log_softmax(-1))
    chooser = TokenChooser()
    seen: list[set[int]] = [set() for _ in samplings]
    for step in range(1000):
        choice = chooser.choose(logits, samplings=samplings, draws=[step / 1000] * len(samplings))
        torch.testing.assert_close(choice.logprobs, expected.gather(-1, choice.ids[:, None])[:, 0])
        for ids, token in zip(seen, choice.ids.tolist(), strict=True):
            ids.add(token)
    probable = [set((row > -4.6).nonzero()[:, 0].tolist()) for row in expected[:5]]
    assert all(wanted <= ids for wanted, ids in zip(probable, seen, strict=False))
    assert [seen[1], seen[5]] == [{token} for token in logits[[1, 5]].argmax(-1).tolist()]


def test_a_draw_next_to_one_never_chooses_an_impossible_token() -> None:
    logits = torch.full((1, 40_000), float("-inf"))
    logits[0, :30_000] = 0
    choice = TokenChooser().choose(logits, samplings=[sampling()], draws=[1 - 2**-53])
    assert choice.ids.item() < 30_000


def observe_all(
    engine: ContinuousBatchingEngine, calls: Sequence[list[int]], *, max_ids: int
) -> list[tuple[list[int], Completion]]:
    """What each observer was told, which wants no more than `max_ids`, and the completion."""
    told: list[list[int]] = [[] for _ in calls]

    def observing(index: int) -> Callable[[Sequence[int]], bool]:
        def observe(ids: Sequence[int]) -> bool:
            told[index] += ids
            return len(told[index]) >= max_ids

        return observe

    async def run() -> list[Completion]:
        async with engine.serving():
            return await asyncio.gather(
                *(
                    engine.generate(ids, sampling(), caller=str(i), observe=observing(i))
                    for i, ids in enumerate(calls)
                )
            )

    return list(zip(told, asyncio.run(run()), strict=True))


def test_an_observer_sees_every_token_and_ends_the_completion_at_the_one_it_wants(
    model: PreTrainedModel,
) -> None:
    prompts = [prompt(i, 5 + i) for i in range(6)]
    whole = generate_all(make_engine(model), [(ids, sampling()) for ids in prompts])
    for max_ids in (1, 4, 99):
        cut = observe_all(make_engine(model), prompts, max_ids=max_ids)
        for (told, completion), full in zip(cut, whole, strict=True):
            assert tuple(told) == completion.ids == full.ids[:max_ids]
            torch.testing.assert_close(completion.logprobs, full.logprobs[:max_ids])
            assert completion.finish_reason == ("length" if max_ids == 99 else "cut")


def make_engine(model: PreTrainedModel) -> ContinuousBatchingEngine:
    return ContinuousBatchingEngine(model, SMALL, seed=0)


def test_an_observed_completion_that_lost_its_pages_is_told_once(model: PreTrainedModel) -> None:
    prompts = [prompt(i, 40) for i in range(6)]
    tight = EngineLimits(max_num_seqs=6, max_model_len=64, page_size=4, max_cache_bytes=1)
    engine = ContinuousBatchingEngine(model, tight, seed=0)
    for told, completion in observe_all(engine, prompts, max_ids=9):
        assert tuple(told) == completion.ids and len(told) == 9


def test_the_most_probable_tokens_are_those_of_the_distribution(model: PreTrainedModel) -> None:
    engine = make_engine(model)
    wanted = [sampling(num_top_logprobs=n, temperature=0.7, max_new_tokens=5) for n in (3, 0, 5)]
    ids = prompt(3, 11)
    for settings, completion in zip(
        wanted, generate_all(engine, [(ids, one) for one in wanted]), strict=True
    ):
        num_top = settings.num_top_logprobs
        assert (completion.top_logprobs is None) == (num_top == 0)
        for place, top in enumerate(completion.top_logprobs or ()):
            with torch.no_grad():
                seen = torch.tensor([[*ids, *completion.ids[:place]]])
                logprobs = (model(seen).logits[0, -1] / 0.7).log_softmax(-1)
            values, tokens = logprobs.topk(num_top)
            assert [token for token, _ in top] == tokens.tolist()
            torch.testing.assert_close(torch.tensor([v for _, v in top]), values, atol=1e-4, rtol=0)
