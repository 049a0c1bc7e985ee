"""What runs on a GPU only, against plain arithmetic: kernels, recorded passes, ragged attention.

python -m pytest -m gpu
"""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

if not torch.cuda.is_available():
    pytest.skip("needs a GPU", allow_module_level=True)

from astuner.engine import decode_kernel, decode_layer_kernel
from astuner.engine.continuous import ContinuousBatchingEngine
from astuner.engine.decode_kernel import Deal, deal_keys, decode_attention, write_to_pages
from astuner.engine.decode_rows import PassRows, Replayed
from astuner.engine.limits import EngineLimits
from astuner.engine.pace import Pace
from astuner.engine.protocol import Sampling
from astuner.engine.scheduler import Draft
from astuner.errors import EngineError
from astuner.models.adapter import AdapterSettings, attach_adapter
from astuner.models.device import DtypeName
from astuner.models.fused_layers import use_fused_layers
from astuner.models.load import load_policy
from astuner.models.supported import check_supported
from astuner.training import optimizer
from astuner.training.footprint import measure_footprint
from astuner.training.packed_check import verify_packed_pass
from astuner.training.packing import pack
from astuner.training.score import _score_gradient, _score_rows, backward_batch, num_logit_bytes
from astuner.training.score_kernel import score_gradient, score_rows
from astuner.training.trainer import PolicyTrainer
from astuner.trajectory.samples import TrainSample
from astuner.types import Completion
from tests.test_look_ahead import SteadyPace
from tests.test_speculation import Eager
from tests.test_trainer import SETTINGS
from tests.tiny_model import make_tiny_model

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("ignore")]
LIMITS = EngineLimits(
    max_num_seqs=24, max_model_len=1200, max_batch_tokens=700, max_cache_bytes=2**27
)


def small_model(dtype: torch.dtype) -> PreTrainedModel:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=2000,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=4096,
    )
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data *= 2.5
    return model.to(dtype).cuda().eval()


class PagedRows:
    """Completions of these lengths with random queries, keys and values, in pages out of order."""

    def __init__(
        self,
        lengths: Sequence[int],
        heads: int,
        key_heads: int,
        size: int,
        *,
        dtype: torch.dtype = torch.float32,
        page: int = 16,
    ) -> None:
        torch.manual_seed(0)
        self.page, num_rows, num_pages = page, len(lengths), -(-max(lengths) // page)
        order = torch.randperm(num_rows * num_pages + 3, device="cuda")
        self.tables = order[: num_rows * num_pages].view(num_rows, num_pages).int()
        # What nobody wrote must not matter.
        self.caches = [
            torch.full((len(order) * page, key_heads, size), torch.nan, device="cuda").to(dtype)
            for _ in range(2)
        ]
        self.addresses = torch.tensor([0, 0, *(x.data_ptr() for x in self.caches)], device="cuda")
        for row, length in enumerate(lengths):
            for cache in self.caches:
                cache[self.slots(row, length)] = torch.randn(
                    length, key_heads, size, device="cuda"
                ).to(dtype)
        self.set_lengths(lengths)
        self.query = torch.randn(num_rows, heads, size, device="cuda").to(dtype)

    def set_lengths(self, lengths: Sequence[int]) -> None:
        self.lengths = torch.tensor(lengths, device="cuda").int()

    def slots(self, row: int, length: int) -> torch.Tensor:
        place = torch.arange(length, device="cuda")
        return self.tables[row].long()[place // self.page] * self.page + place % self.page

    def deal(self, window: int | None = None) -> Deal:
        return deal_keys(self.lengths, num_key_heads=self.caches[0].shape[1], window=window)

    def attend(self, deal: Deal) -> torch.Tensor:
        return decode_attention(
            self.query,
            self.addresses,
            self.tables,
            deal,
            layer=1,
            page_size=self.page,
            scaling=0.2,
        )

    def check(self, found: torch.Tensor, window: int | None = None) -> None:
        """Against plain attention in float32."""
        for row, length in enumerate(self.lengths.tolist()):
            slots = self.slots(row, length)[-(window or 0) :]
            shared = self.query.shape[1] // self.caches[0].shape[1]
            key, value = (x[slots].float().repeat_interleave(shared, 1) for x in self.caches)
            score = torch.einsum("hd,khd->hk", self.query[row].float(), key) * 0.2
            expected = torch.einsum("hk,khd->hd", score.softmax(-1), value)
            torch.testing.assert_close(found[row].float(), expected, atol=1e-2, rtol=1e-2)


EDGES = (1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257, 300)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("lengths", "heads", "key_heads", "size", "window"),
    [
        (EDGES, 9, 3, 64, None),
        (EDGES, 12, 2, 128, 40),
        (EDGES * 4, 12, 2, 128, None),
        (EDGES * 4, 10, 5, 80, 200),
        (EDGES, 8, 1, 80, None),
        (EDGES, 4, 4, 32, 9),
        ((700,), 8, 2, 128, None),
        ((3000, 1, 129), 6, 2, 96, None),
        ((3000, 1, 129), 14, 2, 64, 1000),
        ((500, 90), 4, 2, 256, 50),
        ((5000,) + (20,) * 40, 40, 2, 64, None),
        ((260,) * 300, 9, 3, 64, None),
    ],
)
def test_decode_attention_is_plain_attention_over_the_pages(
    dtype, lengths, heads, key_heads, size, window
) -> None:
    rows = PagedRows(lengths, heads, key_heads, size, dtype=dtype)
    deal = rows.deal(window)
    for _ in range(2):  # layers share what was dealt out
        rows.check(rows.attend(deal), window)
    assert not deal.num_done.any()


@pytest.mark.parametrize("page", [1, 8, 24, 64, 100])
def test_decode_attention_reads_pages_of_any_size(page) -> None:
    rows = PagedRows((1, 99, 100, 101, 900), 6, 2, 64, page=page)
    rows.check(rows.attend(rows.deal()))


@pytest.mark.parametrize("group", range(1, 9))
def test_decode_attention_takes_any_number_of_query_heads_for_a_key_head(group) -> None:
    rows = PagedRows((31, 1000), 2 * group, 2, 64, dtype=torch.bfloat16)
    rows.check(rows.attend(rows.deal()))


@pytest.mark.parametrize("lengths", [(1,), (9000,), (1, 9000, 500), (300,) * 600])
@pytest.mark.parametrize("window", [None, 700])
def test_every_key_is_dealt_out_once(lengths, window) -> None:
    rows = PagedRows((1,), 4, 2, 32)
    rows.set_lengths(lengths)
    dealt: list[list[int]] = [[] for _ in lengths]
    for row, first, end, index, count, *_ in rows.deal(window).parts.tolist():
        if count:
            assert index < count
            assert first < end
            dealt[row] += range(first, end)
    for keys, length in zip(dealt, lengths, strict=True):
        assert keys == list(range(length))[-(window or 0) :]


def test_a_recorded_attention_deals_out_the_keys_of_completions_that_grew() -> None:
    lengths = (4000, 17, 1, 600)
    rows = PagedRows(lengths, 12, 2, 128, dtype=torch.bfloat16)
    rows.set_lengths((3, 16, 1, 64))
    rows.attend(rows.deal())  # compiled
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = rows.attend(rows.deal())
    graph.replay()
    rows.check(found)
    rows.lengths.copy_(torch.tensor(lengths))
    graph.replay()
    rows.check(found)


def test_what_is_written_to_pages_is_what_the_attention_reads() -> None:
    lengths = (1, 16, 33)
    rows = PagedRows(lengths, 6, 2, 96)
    new = torch.randn(2, len(lengths), 2, 96, device="cuda")
    slots = torch.stack([rows.slots(row, n)[-1] for row, n in enumerate(lengths)])
    others = torch.ones(len(rows.caches[0]), dtype=torch.bool, device="cuda")
    others[slots] = False
    before = [cache[others].clone() for cache in rows.caches]
    write_to_pages(new[0], new[1], rows.addresses, slots, layer=1)
    for cache, written, kept in zip(rows.caches, new, before, strict=True):
        assert torch.equal(cache[slots], written)
        torch.testing.assert_close(cache[others], kept, equal_nan=True, atol=0, rtol=0)
    rows.check(rows.attend(rows.deal()))


def test_scores_and_their_gradient_are_those_of_the_plain_arithmetic() -> None:
    torch.manual_seed(0)
    logits = torch.randn(37, 50_001, device="cuda") * 4
    target = torch.randint(50_001, (37,), device="cuda")
    temperature = torch.rand(37, device="cuda") + 0.5
    slope = torch.randn(37, device="cuda")
    for found, expected in zip(
        score_rows(logits, target, temperature),
        _score_rows(logits, target, temperature),
        strict=True,
    ):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    lse = _score_rows(logits, target, temperature)[2]
    torch.testing.assert_close(
        score_gradient(logits, target, temperature, lse, slope),
        _score_gradient(logits, target, temperature, lse, slope),
        atol=1e-5,
        rtol=1e-4,
    )


def calls() -> list[tuple[tuple[int, ...], Sampling]]:
    """Lengths, temperatures and limits all differ; half of the prompts share a beginning."""
    rng = random.Random(0)
    shared = tuple(rng.randrange(2000) for _ in range(100))
    return [
        (
            (shared if i % 2 else ()) + tuple(rng.randrange(2000) for _ in range(1 + 7 * i)),
            Sampling(
                temperature=[1.0, 0.7, 0.0][i % 3],
                top_p=0.9 if i % 5 == 0 else 1.0,
                top_k=-1,
                max_new_tokens=5 + 3 * i,
                stop_ids=frozenset(),
            ),
        )
        for i in range(60)
    ]


def generate(
    engine: ContinuousBatchingEngine,
    asked: Sequence[tuple[tuple[int, ...], Sampling]] | None = None,
) -> list[Completion]:
    async def run() -> list[Completion]:
        async with engine.serving():
            named = enumerate(asked or calls())
            return await asyncio.gather(*(engine.generate(*c, caller=str(i)) for i, c in named))

    return asyncio.run(run())


@torch.no_grad()
def gaps(
    model: PreTrainedModel,
    completions: Sequence[Completion],
    asked: Sequence[tuple[tuple[int, ...], Sampling]] | None = None,
) -> torch.Tensor:
    """Between the engine's log-probabilities and those of a plain forward pass."""
    found = []
    for (prompt, sampling), completion in zip(asked or calls(), completions, strict=True):
        if sampling.top_p < 1:
            continue
        ids = torch.tensor([[*prompt, *completion.ids]], device="cuda")
        logits = model(ids).logits[0, len(prompt) - 1 : -1].float() / (sampling.temperature or 1)
        chosen = torch.tensor(completion.ids, device="cuda")[:, None]
        logprobs = logits.log_softmax(-1).gather(1, chosen)[:, 0]
        found.append((logprobs.cpu() - torch.tensor(completion.logprobs)).abs())
    return torch.cat(found)


@pytest.mark.parametrize(("dtype", "worst"), [(torch.float32, 1e-4), (torch.bfloat16, 0.1)])
def test_log_probabilities_are_those_of_a_plain_forward_pass(dtype, worst) -> None:
    model = small_model(dtype)
    engine = ContinuousBatchingEngine(model, LIMITS, seed=0)
    first = generate(engine)
    assert gaps(model, first).max() < worst
    # The cache was given back; recorded passes find it elsewhere.
    keep = torch.empty(2**28, dtype=torch.uint8, device="cuda")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.01)
    engine.weights_updated()
    second = generate(engine)
    assert gaps(model, second).max() < worst
    assert [c.ids for c in first] != [c.ids for c in second]
    assert len(keep)


def test_kernels_of_a_gpu_that_begins_none_early_compute_the_same(monkeypatch) -> None:
    for module in (decode_kernel, decode_layer_kernel):
        monkeypatch.setattr(module, "overlap", lambda device: {"overlaps": False})
    model = small_model(torch.bfloat16)
    assert gaps(model, generate(ContinuousBatchingEngine(model, LIMITS, seed=0))).max() < 0.1


def count_further_rows(engine: ContinuousBatchingEngine) -> list[int]:
    """Of each recorded pass from here on, those beside one for each completion."""
    graphs: Any = engine._writer._graphs
    run, counts = graphs.run, []

    def count(wanted: PassRows, **options: Any) -> Replayed | None:
        counts.append(len(wanted.drafts) - len({*wanted.drafts}))
        return run(wanted, **options)

    graphs.run = count
    return counts


def test_what_fails_while_a_pass_is_recorded_is_told_and_not_the_recording_that_it_ends() -> None:
    engine = ContinuousBatchingEngine(small_model(torch.bfloat16), LIMITS, seed=0)
    graphs: Any = engine._writer._graphs
    compute = graphs._pass

    def wait_in_vain(size: int, mode: str) -> None:
        compute(size, mode)
        if torch.cuda.is_current_stream_capturing() and len(graphs._graphs) == 2:
            torch.cuda.synchronize()

    graphs._pass = wait_in_vain
    with pytest.raises(EngineError, match="not permitted when stream is capturing"):
        generate(engine)


@pytest.mark.parametrize(("dtype", "worst"), [(torch.float32, 1e-4), (torch.bfloat16, 0.1)])
def test_log_probabilities_of_guessed_tokens_are_those_of_a_plain_forward_pass(
    dtype, worst
) -> None:
    model = small_model(dtype)
    plain = generate(ContinuousBatchingEngine(model, replace(LIMITS, speculates=False), seed=0))

    def guess(draft: Draft) -> Sequence[int]:
        done = len(draft.ids) - draft.num_prompt
        rest = plain[int(draft.request.caller)].ids[done : done + 3]
        return rest if done % 4 else [*rest[:1], *(token ^ 1 for token in rest[1:])]

    engine = ContinuousBatchingEngine(model, LIMITS, seed=0)
    engine._writer._speculation = Eager(guess)
    num_guessed = count_further_rows(engine)
    found = generate(engine)
    assert sum(num_guessed) > 50
    assert gaps(model, found).max() < worst
    if dtype == torch.float32:
        num_same = sum(a.ids == b.ids for a, b in zip(found, plain, strict=True))
        assert num_same > 0.8 * len(plain)  # a draw on the border between two tokens may turn


@pytest.mark.parametrize(("dtype", "worst"), [(torch.float32, 1e-4), (torch.bfloat16, 0.1)])
def test_passes_that_are_begun_at_once_sample_what_single_ones_do(dtype, worst) -> None:
    model = small_model(dtype)
    limits = replace(LIMITS, speculates=False)
    asked = [(prompt, replace(sampling, top_p=1.0)) for prompt, sampling in calls()]
    found, num_at_once = [], []
    for num_passes in (1, Pace.MOST):
        engine = ContinuousBatchingEngine(model, limits, seed=0)
        engine._writer._pace = SteadyPace(num_passes)
        graphs: Any = engine._writer._graphs
        run = graphs.run

        def note(wanted: PassRows, run=run, **options: Any) -> Replayed | None:
            num_at_once.append(max(map(len, wanted.draws)))
            return run(wanted, **options)

        graphs.run = note
        found.append(generate(engine, asked))
        assert max(num_at_once) == num_passes
        assert gaps(model, found[-1], asked).max() < worst
    assert [len(one.ids) for one in found[0]] == [len(one.ids) for one in found[1]]
    if dtype == torch.float32:
        num_same = sum(a.ids == b.ids for a, b in zip(*found, strict=True))
        assert num_same > 0.8 * len(asked)  # a draw on the border between two tokens may turn


def with_adapter(dtype: torch.dtype) -> PreTrainedModel:
    """Computed by its own modules."""
    model = small_model(dtype)
    attach_adapter(
        model, AdapterSettings(rank=8, alpha=None, target_modules=None, dropout=0.0), seed=0
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.05)
    return model


def with_windows(dtype: torch.dtype) -> PreTrainedModel:
    torch.manual_seed(0)
    config = transformers.Gemma3TextConfig(**{**FAMILY_SIZES, **GEMMA})
    return AutoModelForCausalLM.from_config(config, dtype=dtype).cuda()


@pytest.mark.parametrize(
    ("make_model", "dtype", "worst"),
    [
        (small_model, torch.float32, 1e-4),
        (small_model, torch.bfloat16, 0.1),
        (with_adapter, torch.float32, 1e-3),
        (with_adapter, torch.bfloat16, 0.15),
        (with_windows, torch.float32, 1e-3),
        (with_windows, torch.bfloat16, 0.15),
    ],
)
def test_log_probabilities_behind_what_is_read_while_others_grow_are_those_of_a_plain_pass(
    make_model, dtype, worst
) -> None:
    model = make_model(dtype)
    engine = ContinuousBatchingEngine(model, replace(LIMITS, speculates=False), seed=0)
    num_read_beside = count_further_rows(engine)
    asked: list[tuple[tuple[int, ...], Sampling]] = []
    found: list[Completion] = []

    async def act(caller: str, prompt: tuple[int, ...], sampling: Sampling) -> None:
        for turn in range(4):
            completion = await engine.generate(prompt, sampling, caller=caller, index=turn)
            asked.append((prompt, sampling))
            found.append(completion)
            prompt = (*prompt, *completion.ids, *range(100 * turn, 100 * turn + 5 + 9 * turn))

    async def act_together() -> None:
        async with engine.serving():
            callers = enumerate(calls())
            await asyncio.gather(*(act(str(i), *call) for i, call in callers if len(call[0]) < 200))

    asyncio.run(act_together())
    assert sum(num_read_beside) > 300
    assert gaps(model, found, asked).max() < worst


def samples() -> list[TrainSample]:
    """Groups under one system prompt: two levels of shared tokens."""
    rng = random.Random(1)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(rng.randrange(2000) for _ in range(count))

    system, found = ids(150), []
    for group in range(5):
        prompt = system + ids(70 + group)
        for attempt in range(4):
            reply = ids(20 + 13 * attempt)
            found.append(
                TrainSample(
                    ids=prompt + reply,
                    mask=(False,) * len(prompt) + (True,) * len(reply),
                    logprobs=(0.0,) * len(prompt) + (-7.0,) * len(reply),
                    advantage=rng.choice([-1.0, 1.0]),
                    temperature=1.0,
                    weight_version=0,
                    task_id=str(group),
                    episode_id=f"{group}-{attempt}",
                )
            )
    return found


def gradients(model: PreTrainedModel, parts: list[list[TrainSample]]) -> dict[str, torch.Tensor]:
    model.zero_grad()
    for part in parts:
        (batch,) = pack(part, max_tokens=10**6, device="cuda")
        advantage = torch.tensor([s.advantage for s in part], device="cuda")[batch.sample_N]
        temperature = torch.ones(len(batch.target_N), device="cuda")
        backward_batch(
            model, batch, temperature, lambda c, s, a=advantage: -(a[c] * s.logprob_N).sum() / 100
        )
    return {n: p.grad.float().clone() for n, p in model.named_parameters()}


def test_packed_gradients_are_those_of_each_sample_alone() -> None:
    model, all_samples = small_model(torch.bfloat16), samples()
    (batch,) = pack(all_samples, max_tokens=10**6, device="cuda")
    assert len(batch.layout.levels) == 2
    exact = gradients(small_model(torch.float32), [[s] for s in all_samples])
    alone = gradients(model, [[s] for s in all_samples])
    packed = gradients(model, [all_samples])
    for name, expected in exact.items():
        error = (packed[name] - expected).norm() / expected.norm()
        assert error < 1.5 * (alone[name] - expected).norm() / expected.norm() + 0.01


def test_fused_layers_compute_what_plain_ones_do() -> None:
    pytest.importorskip("liger_kernel")
    plain, fused = small_model(torch.bfloat16), small_model(torch.bfloat16)
    assert use_fused_layers(fused)
    exact = gradients(small_model(torch.float32), [samples()])
    for model in (plain, fused):
        found = gradients(model, [samples()])
        worst = max(((found[n] - e).norm() / e.norm()).item() for n, e in exact.items())
        assert worst < 0.06


def test_fused_layers_of_one_model_leave_others_as_they_are() -> None:
    pytest.importorskip("liger_kernel")
    other = small_model(torch.float32).cpu()
    ids = torch.arange(20)[None]
    before = other(ids).logits
    assert use_fused_layers(small_model(torch.bfloat16))
    assert torch.equal(other(ids).logits, before)
    assert torch.equal(small_model(torch.float32).cpu()(ids).logits, before)
    # A model without storage, whose addresses no kernel may read.
    assert measure_footprint(other.config, torch.bfloat16, adapter=None)
    torch.cuda.synchronize()


def trained(model: PreTrainedModel, num_steps: int = 1, **settings: object) -> dict:
    """The weights after some steps."""
    changed = replace(SETTINGS, max_token_len_per_gpu=10**6, **settings)
    trainer = PolicyTrainer(model, changed, seed=0)
    for _ in range(num_steps):
        trainer.train_step(samples())
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def test_gradient_checkpointing_moves_the_weights_to_the_same_place() -> None:
    before = dict(small_model(torch.bfloat16).named_parameters())
    kept, computed_again = (
        trained(small_model(torch.bfloat16), gradient_checkpointing=is_on)
        for is_on in (False, True)
    )
    moved = sum((kept[name] - before[name]).float().square().sum() for name in kept)
    apart = sum((kept[name] - computed_again[name]).float().square().sum() for name in kept)
    assert apart < 0.01 * moved


def test_what_rests_in_host_memory_is_updated_to_the_same_bits(monkeypatch) -> None:
    monkeypatch.setattr(optimizer, "PART_ELEMENTS", 600_000)
    found = []
    for masters, moments in ((False, False), (False, True), (True, True)):
        resting = replace(
            SETTINGS.optimizer, masters_in_host_memory=masters, moments_in_host_memory=moments
        )
        torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            found.append(trained(small_model(torch.bfloat16), 3, optimizer=resting))
        finally:
            torch.use_deterministic_algorithms(False)
    for other in found[1:]:
        for name, weight in found[0].items():
            assert torch.equal(other[name], weight), name


def test_the_estimated_memory_of_a_training_pass_is_what_it_takes() -> None:
    model = small_model(torch.bfloat16)
    footprint = measure_footprint(model.config, torch.bfloat16, adapter=None)
    assert footprint is not None
    many = samples() * 40
    trainer = PolicyTrainer(model, replace(SETTINGS, max_token_len_per_gpu=10**6), seed=0)
    trainer.train_step(many)  # kernels are compiled
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    num_tokens = trainer.train_step(many)["train/packed_tokens"]
    taken = torch.cuda.max_memory_allocated() - before
    expected = footprint.kept_per_token * num_tokens + 4 * footprint.num_trained
    assert 0.5 * expected < taken < 1.3 * expected + num_logit_bytes(model.device)


FAMILY_SIZES: dict[str, Any] = {
    "vocab_size": 2000,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "initializer_range": 0.05,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
GEMMA = {"head_dim": 64, "query_pre_attn_scalar": 64, "sliding_window": 50}
FAMILIES: dict[str, dict[str, Any]] = {
    # Scores by matrix products only, and no recorded passes:
    "Gemma2Config": GEMMA | {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 5.0},
    "DeepseekV3Config": {
        "num_key_value_heads": 8,
        "q_lora_rank": 64,
        "kv_lora_rank": 64,
        "qk_rope_head_dim": 16,
        "qk_nope_head_dim": 32,
        "v_head_dim": 32,
        "n_routed_experts": 4,
        "n_group": 1,
        "topk_group": 1,
        "num_experts_per_tok": 2,
        "first_k_dense_replace": 1,
        "moe_intermediate_size": 64,
    },
    # The flash kernel for prompts, and recorded passes:
    "Gemma3TextConfig": GEMMA,
    "Qwen3Config": {"head_dim": 64},
}
BY_MATRICES = {"Gemma2Config", "DeepseekV3Config"}


def family(name: str, dtype: DtypeName, folder: Path) -> PreTrainedModel:
    """Random, and loaded as a run loads it."""
    make_tiny_model(folder)
    torch.manual_seed(0)
    config = getattr(transformers, name)(**{**FAMILY_SIZES, **FAMILIES[name]})
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    return load_policy(str(folder), dtype=dtype).model


@pytest.mark.parametrize(("dtype", "worst"), [("float32", 1e-3), ("bfloat16", 0.15)])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_generates_and_trains_as_its_own_forward_says(
    tmp_path, name, dtype, worst
) -> None:
    model = family(name, dtype, tmp_path)
    check_supported(str(tmp_path))
    verify_packed_pass(model)
    engine = ContinuousBatchingEngine(model, LIMITS, seed=0)
    completions = generate(engine)
    model.set_attn_implementation("eager")  # some other ways leave soft-capping out without a word
    # Where experts are chosen, rounding may choose another one.
    found = gaps(model, completions)
    assert found.quantile(0.98) < worst
    assert engine._writer._cache.needs_matrices == (name in BY_MATRICES)
    trainer = PolicyTrainer(model, replace(SETTINGS, max_token_len_per_gpu=10**6), seed=0)
    before = [p.detach().clone() for p in model.parameters()]
    assert trainer.train_step(samples())["train/grad_norm"] > 0
    after = list(model.parameters())
    assert all(torch.isfinite(p).all() for p in after)
    assert not all(map(torch.equal, before, after))


@pytest.mark.parametrize("name", FAMILIES)
def test_the_packed_gradients_of_a_family_are_those_of_each_sample_alone(tmp_path, name) -> None:
    model, all_samples = family(name, "float32", tmp_path), samples()[:8]
    alone = gradients(model, [[s] for s in all_samples])
    packed = gradients(model, [all_samples])
    for one, expected in alone.items():
        assert (packed[one] - expected).norm() <= 1e-2 * expected.norm() + 1e-6, one
