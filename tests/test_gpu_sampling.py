"""Tokens drawn by our kernel, against plain arithmetic in float64.

python -m pytest -m gpu. With TRITON_INTERPRET=1 and Triton, what asks for no recorded pass runs
without a GPU too, one program after the other.
"""

import asyncio
import math
import os

import pytest
import torch
from torch import Tensor

if not torch.cuda.is_available() and not os.environ.get("TRITON_INTERPRET"):
    pytest.skip("needs a GPU or Triton's interpreter", allow_module_level=True)

from astuner.engine.continuous import ContinuousBatchingEngine
from astuner.engine.protocol import Sampling
from astuner.engine.sample_kernel import sample_rows
from astuner.types import Completion

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("ignore")]
HAS_GPU = torch.cuda.is_available()
DEVICE = "cuda" if HAS_GPU else "cpu"
INF = math.inf
SIZES = [1, 17, 2000, 4097, *([49_152, 151_936] if HAS_GPU else [])]


def floats(*values: float) -> Tensor:
    return torch.tensor(values, device=DEVICE)


def check(logits: Tensor, inverse: Tensor, draws: Tensor) -> None:
    """The running sums pass the draws at the tokens, whose log-probabilities are exact."""
    ids, logprobs = sample_rows(logits, inverse, draws)
    scores = logits.double() * torch.where(inverse == 0, 1.0, inverse.double())[:, None]
    exact = scores.log_softmax(-1)
    own = exact.gather(-1, ids[:, None])[:, 0]
    torch.testing.assert_close(logprobs.double(), own, atol=1e-5, rtol=1e-6)
    after = exact.exp().cumsum(-1).gather(-1, ids[:, None])[:, 0]
    before = after - own.exp()
    drawn = inverse > 0
    assert (draws >= before - 1e-6)[drawn].all()
    assert (draws <= after + 1e-6)[drawn].all()
    assert torch.equal(ids[~drawn], logits.float().argmax(-1)[~drawn])


@pytest.mark.parametrize("spread", [0.01, 3, 30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("size", SIZES)
def test_running_sums_pass_the_draws_at_the_tokens(size, dtype, spread) -> None:
    torch.manual_seed(size)
    rows = (torch.randn(7, size + 3, device=DEVICE) * spread).to(dtype)
    inverse = floats(1, 0, 1 / 0.7, 0.5, 3, 0, 100)
    draws = torch.rand(7, device=DEVICE)
    check(rows[:, :size].contiguous(), inverse, draws)
    check(rows[:, 1 : size + 1], inverse, draws)


def test_tokens_come_as_often_as_their_probabilities_say() -> None:
    torch.manual_seed(0)
    num_draws = 2048 if HAS_GPU else 64
    logits = torch.randn(1, 9000, device=DEVICE) * 4
    draws = (torch.arange(num_draws, device=DEVICE) + 0.5) / num_draws
    even = torch.ones(num_draws, device=DEVICE)
    ids, _ = sample_rows(logits.expand(num_draws, -1), even, draws)
    counts = torch.bincount(ids, minlength=9000)
    expected = logits[0].double().softmax(-1) * num_draws
    # Of evenly spaced draws, a token gets its share but for those at its two ends.
    assert (counts - expected).abs().max() < 1 + 1e-3
    assert counts.sum() == num_draws


def test_the_first_of_the_most_probable_tokens_is_greedy_with_its_probability_at_temperature_1():
    logits = torch.zeros(1, 9000, device=DEVICE)
    logits[0, [70, 71, 5000]] = 20.0
    (token,), (logprob,) = sample_rows(logits, floats(0), floats(0.9))
    assert token == 70
    assert logprob.item() == pytest.approx(logits[0].log_softmax(-1)[70].item(), abs=1e-5)


@pytest.mark.parametrize("inverse", [0.0, 1.0, 5.0])
def test_a_token_without_probability_is_never_drawn(inverse) -> None:
    logits = torch.full((4, 20_000), -INF, device=DEVICE)
    logits[:, 9000:9003] = floats(1.0, -INF, 1.0)
    ids, logprobs = sample_rows(logits, floats(*[inverse] * 4), floats(0, 0.4999, 0.5001, 1))
    assert ids.tolist() == ([9000] * 4 if inverse == 0 else [9000, 9000, 9002, 9002])
    assert logprobs.tolist() == pytest.approx([math.log(0.5)] * 4, abs=1e-6)


def test_a_draw_that_was_rounded_up_to_1_takes_no_token_of_next_to_no_probability() -> None:
    logits = torch.full((1, 20_000), -40.0, device=DEVICE)
    logits[0, [3, 4500]] = 0.0
    ids, _ = sample_rows(logits, floats(1), floats(1))
    assert ids.item() == 4500


@pytest.mark.parametrize("inverse", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_logits_that_are_not_finite_show_in_the_log_probability_of_their_row(
    dtype, inverse
) -> None:
    torch.manual_seed(0)
    logits = torch.randn(6, 9000, device=DEVICE).to(dtype)
    logits[0, 8999] = math.nan
    logits[1, 10] = INF
    logits[2] = -INF
    logits[3] = math.nan
    logits[4, 4000:8500] = -INF
    draws = torch.rand(6, device=DEVICE)
    ids, logprobs = sample_rows(logits, floats(*[inverse] * 6), draws)
    assert logprobs.isfinite().tolist() == [False, False, False, False, True, True]
    assert ((ids >= 0) & (ids < 9000)).all()
    check(logits[4:], floats(*[inverse] * 2), draws[4:])


@pytest.mark.skipif(not HAS_GPU, reason="recorded graphs need a GPU")
@pytest.mark.parametrize("num_rows", [1, 64, 1024])
def test_a_recorded_draw_follows_what_is_put_in_its_inputs(num_rows) -> None:
    logits = torch.randn(num_rows, 49_152, device="cuda", dtype=torch.bfloat16)
    inverse, draws = (torch.rand(num_rows, device="cuda") for _ in range(2))
    sample_rows(logits, inverse, draws)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        ids, logprobs = sample_rows(logits, inverse, draws)
    for spread in (1, 10):
        logits.normal_(0, spread)
        inverse.uniform_(0.5, 2)
        draws.uniform_()
        graph.replay()
        expected = sample_rows(logits, inverse, draws)
        assert torch.equal(ids, expected[0])
        assert torch.equal(logprobs, expected[1])
        check(logits, inverse, draws)


@pytest.mark.skipif(not HAS_GPU, reason="recorded passes need a GPU")
def test_a_recorded_pass_serves_all_temperatures_at_once() -> None:
    from tests.test_gpu import LIMITS, small_model

    model = small_model(torch.float32)
    prompts = [tuple(range(7 * i + 1, 7 * i + 20)) for i in range(12)]
    temperatures = [[1.0, 0.7, 0.0][i % 3] for i in range(12)]
    engine = ContinuousBatchingEngine(model, LIMITS, seed=0)

    async def write(index: int) -> Completion:
        sampling = Sampling(
            temperature=temperatures[index],
            top_p=1.0,
            top_k=-1,
            max_new_tokens=30,
            stop_ids=frozenset(),
        )
        return await engine.generate(prompts[index], sampling, caller=str(index))

    async def write_all() -> list[Completion]:
        async with engine.serving():
            return await asyncio.gather(*map(write, range(12)))

    for prompt, temperature, found in zip(
        prompts, temperatures, asyncio.run(write_all()), strict=True
    ):
        with torch.no_grad():
            ids = torch.tensor([[*prompt, *found.ids]], device="cuda")
            logits = model(ids).logits[0, len(prompt) - 1 : -1]
        scores = (logits / (temperature or 1)).log_softmax(-1)
        own = scores.gather(-1, torch.tensor(found.ids, device="cuda")[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(found.logprobs), own.cpu(), atol=1e-4, rtol=1e-4)
        if temperature == 0:
            torch.testing.assert_close(own, scores.amax(-1), atol=1e-4, rtol=1e-4)
