"""vLLM as the engine, for real: a tiny model in float32, served in this process."""

import asyncio
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from astuner.engine.limits import EngineLimits
from astuner.engine.protocol import Sampling
from astuner.errors import BackboneError, EngineError
from astuner.types import Completion
from tests.tiny_model import make_tiny_model

pytestmark = [pytest.mark.vllm, pytest.mark.filterwarnings("ignore")]
"""Its own warnings are not ours to mend."""
pytest.importorskip("vllm")

from astuner.engine.vllm import VLLMEngine  # noqa: E402

LIMITS = EngineLimits(max_num_seqs=8, max_model_len=256, max_cache_bytes=2**30)


def save_tied_model(folder: Path) -> None:
    """A tiny model whose output layer is its embedding, as in most small models."""
    make_tiny_model(folder)
    config = AutoConfig.from_pretrained(folder)
    config.tie_word_embeddings = True
    config.num_attention_heads, config.num_key_value_heads = 2, 1  # vLLM wants heads of 32
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).to(torch.float32)
    for parameter in model.parameters():
        parameter.data *= 3  # far from uniform
    model.save_pretrained(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    save_tied_model(folder)
    return folder


@pytest.fixture(scope="module")
def model(folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder).eval()


@pytest.fixture(scope="module")
def engine(model: PreTrainedModel, folder: Path) -> VLLMEngine:
    return VLLMEngine(model, str(folder), LIMITS, seed=1)


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
    engine: VLLMEngine, calls: Sequence[tuple[list[int], Sampling]]
) -> list[Completion]:
    async def run() -> list[Completion]:
        async with engine.serving():
            return await asyncio.gather(*(engine.generate(*call) for call in calls))

    return asyncio.run(run())


@torch.no_grad()
def logprobs_of(
    model: PreTrainedModel, prompt_ids: list[int], completion: Completion, temperature: float = 1
) -> torch.Tensor:
    ids = torch.tensor([prompt_ids + list(completion.ids)])
    logits = model(input_ids=ids).logits[0, len(prompt_ids) - 1 : -1] / temperature
    chosen = torch.tensor(completion.ids)[:, None]
    return logits.log_softmax(-1).gather(1, chosen)[:, 0]


def test_log_probabilities_are_those_of_the_module_at_the_sampling_temperature(
    engine: VLLMEngine, model: PreTrainedModel
) -> None:
    calls = [(prompt(i, 3 + 5 * i), sampling(temperature=0.5 + i / 8)) for i in range(12)]
    for (prompt_ids, asked), completion in zip(calls, generate_all(engine, calls), strict=True):
        expected = logprobs_of(model, prompt_ids, completion, asked.temperature)
        assert torch.tensor(completion.logprobs) == pytest.approx(expected, abs=1e-3)
        assert len(completion.ids) == 12


def test_an_update_of_the_module_reaches_vllm(engine: VLLMEngine, model: PreTrainedModel) -> None:
    greedy = sampling(temperature=0.0)
    before = generate_all(engine, [(prompt(1, 9), greedy)])[0]
    version = engine.weight_version
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    engine.weights_updated()
    after = generate_all(engine, [(prompt(1, 9), greedy)])[0]
    assert after.weight_version == version + 1
    assert after.logprobs != before.logprobs
    expected = logprobs_of(model, prompt(1, 9), after)
    assert torch.tensor(after.logprobs) == pytest.approx(expected, abs=1e-3)


def test_a_stop_token_ends_the_completion_and_is_part_of_it(engine: VLLMEngine) -> None:
    stop_ids = frozenset(range(100, 200))
    for completion in generate_all(engine, [(prompt(2, 5), sampling(stop_ids=stop_ids))] * 8):
        inner, last = completion.ids[:-1], completion.ids[-1]
        assert not stop_ids & set(inner)
        assert (last in stop_ids) == (completion.finish_reason == "stop")
        assert len(completion.logprobs) == len(completion.ids)


def test_a_full_context_ends_the_completion(engine: VLLMEngine) -> None:
    (completion,) = generate_all(engine, [(prompt(3, 250), sampling())])
    assert completion.finish_reason == "context_overflow"
    assert len(completion.ids) == 6


def test_prompts_without_room_are_refused(engine: VLLMEngine) -> None:
    with pytest.raises(EngineError, match="a prompt of 256 tokens"):
        generate_all(engine, [(prompt(4, 256), sampling())])


def test_a_cancelled_call_leaves_the_others_alone(engine: VLLMEngine) -> None:
    async def run() -> Completion:
        async with engine.serving():
            long = sampling(max_new_tokens=200)
            cancelled = asyncio.create_task(engine.generate(prompt(5, 5), long))
            kept = asyncio.create_task(engine.generate(prompt(6, 5), sampling()))
            await asyncio.sleep(0.05)
            cancelled.cancel()
            return await kept

    assert len(asyncio.run(run()).ids) == 12


def test_calls_that_wait_fail_when_serving_ends(engine: VLLMEngine) -> None:
    async def run() -> None:
        async with engine.serving():
            long = sampling(max_new_tokens=200)
            waiting = asyncio.create_task(engine.generate(prompt(7, 5), long))
            await asyncio.sleep(0.05)
        with pytest.raises(EngineError, match="stopped serving"):
            await waiting
        with pytest.raises(EngineError, match="does not serve"):
            await engine.generate(prompt(7, 5), sampling())

    asyncio.run(run())


def test_weights_cannot_change_while_serving(engine: VLLMEngine) -> None:
    async def run() -> None:
        async with engine.serving():
            with pytest.raises(BackboneError, match="while the engine serves"):
                engine.weights_updated()

    asyncio.run(run())
