"""A packed pass gives the log-probabilities and gradients of running each sample alone."""

import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from astuner.errors import BackboneError
from astuner.training.packed_attention import packed_attention_enabled
from astuner.training.packed_check import verify_packed_pass
from astuner.training.packing import MIN_SAVED_TOKENS, PackedBatch, pack
from astuner.training.score import TokenScores, backward_batch, score_batch
from astuner.trajectory.samples import TrainSample

VOCABULARY = 97


def tiny(family: str, **changes: object) -> PreTrainedModel:
    """A random float32 model of two layers, large enough weights for distinct predictions."""
    torch.manual_seed(0)
    common = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 512,
        "initializer_range": 0.2,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    config = getattr(transformers, f"{family}Config")(**(common | changes))
    return getattr(transformers, f"{family}ForCausalLM")(config).eval()


def sample(ids: Sequence[int], mask: Sequence[bool], temperature: float = 1.0) -> TrainSample:
    return TrainSample(
        ids=tuple(ids),
        mask=tuple(mask),
        logprobs=tuple(-1.5 if is_trained else 0.0 for is_trained in mask),
        advantage=1.0,
        temperature=temperature,
        weight_version=0,
        task_id="task",
        episode_id="episode",
    )


def random_samples(seed: int, num_samples: int = 12) -> list[TrainSample]:
    """Prompts that grow out of each other at random, replies with gaps in the mask."""
    generator = random.Random(seed)

    def ids(low: int, high: int) -> list[int]:
        return [generator.randrange(VOCABULARY) for _ in range(generator.randint(low, high))]

    prompts = [ids(1, 30)]
    samples = []
    for _ in range(num_samples):
        prompt = generator.choice(prompts)
        prompt = prompt[: generator.randint(1, len(prompt))] + ids(0, 25)
        prompts.append(prompt)
        reply = ids(1, 20)
        mask = [generator.random() < 0.6 for _ in reply]
        mask[generator.randrange(len(mask))] = True
        samples.append(
            sample(prompt + reply, [False] * len(prompt) + mask, generator.choice([1.0, 0.7]))
        )
    return samples + generator.sample(samples, 2)


def logprobs_alone(model: PreTrainedModel, one: TrainSample) -> Tensor:
    id_T = torch.tensor(one.ids)
    logits_TV = model(input_ids=id_T[None], use_cache=False).logits[0, :-1] / one.temperature
    logprob_T = logits_TV.log_softmax(-1).gather(1, id_T[1:, None]).squeeze(1)
    return logprob_T[torch.tensor(one.mask[1:])]


def temperatures(samples: Sequence[TrainSample], batch: PackedBatch) -> Tensor:
    return torch.tensor([one.temperature for one in samples])[batch.sample_N]


def packed_logprobs(
    model: PreTrainedModel, samples: Sequence[TrainSample], max_tokens: int = 10_000
) -> list[Tensor]:
    """Log-probabilities of the trained tokens, per sample in the order of the samples."""
    result: list[Tensor] = [torch.empty(0)] * len(samples)
    for batch in pack(samples, max_tokens=max_tokens):
        logprob_N = score_batch(model, batch, temperatures(samples, batch)).logprob_N
        for index in batch.sample_N.unique().tolist():
            result[index] = logprob_N[batch.sample_N == index]
    return result


def gradients(model: PreTrainedModel) -> dict[str, Tensor]:
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


def packed_gradients(
    model: PreTrainedModel,
    samples: Sequence[TrainSample],
    weights: Sequence[Tensor],
    max_tokens: int = 10_000,
) -> dict[str, Tensor]:
    for batch in pack(samples, max_tokens=max_tokens):
        order = batch.sample_N.unique_consecutive().tolist()
        weight_N = torch.cat([weights[index] for index in order])

        def chunk_loss(chunk: slice, scores: TokenScores, weight_N: Tensor = weight_N) -> Tensor:
            return (scores.logprob_N * weight_N[chunk]).sum()

        backward_batch(model, batch, temperatures(samples, batch), chunk_loss)
    return gradients(model)


def assert_packed_equals_alone(model: PreTrainedModel, samples: Sequence[TrainSample]) -> None:
    torch.manual_seed(1)
    alone = [logprobs_alone(model, one) for one in samples]
    weights = [torch.randn(len(logprobs)) for logprobs in alone]
    torch.stack([(a * w).sum() for a, w in zip(alone, weights, strict=True)]).sum().backward()
    expected = gradients(model)
    for found, logprobs in zip(packed_logprobs(model, samples), alone, strict=True):
        torch.testing.assert_close(found, logprobs.detach(), atol=1e-4, rtol=1e-5)
    found_gradients = packed_gradients(model, samples, weights)
    assert found_gradients.keys() == expected.keys()
    for name, gradient in found_gradients.items():
        scale = expected[name].abs().max().item()
        torch.testing.assert_close(
            gradient, expected[name], atol=1e-5 * max(scale, 1.0), rtol=1e-4, msg=name
        )


@pytest.fixture(scope="module")
def qwen() -> PreTrainedModel:
    return tiny("Qwen2")


@pytest.mark.parametrize("seed", range(8))
def test_random_forests_score_and_learn_as_samples_alone(qwen: PreTrainedModel, seed: int) -> None:
    assert_packed_equals_alone(qwen, random_samples(seed))


FAMILIES = {
    "Llama": {"tie_word_embeddings": True},
    "Qwen3": {},
    "Qwen3Moe": {"moe_intermediate_size": 16, "num_experts": 4, "num_experts_per_tok": 2},
    "Mistral": {"sliding_window": 12},
    "Gemma": {},
    "Gemma2": {"sliding_window": 9, "query_pre_attn_scalar": 8, "attn_implementation": "eager"},
    "Granite": {"logits_scaling": 3.0},
    "Cohere": {},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_supported_family_scores_and_learns_as_samples_alone(family: str) -> None:
    model = tiny(family, **FAMILIES[family])
    verify_packed_pass(model)
    assert_packed_equals_alone(model, random_samples(3))


def test_gemma3_with_both_kinds_of_layers_scores_and_learns_as_samples_alone() -> None:
    torch.manual_seed(0)
    config = transformers.Gemma3TextConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        query_pre_attn_scalar=8,
        sliding_window=9,
        layer_types=["sliding_attention", "full_attention"],
        final_logit_softcapping=5.0,
        initializer_range=0.2,
    )
    model = transformers.Gemma3ForCausalLM(config).eval()
    verify_packed_pass(model)
    assert_packed_equals_alone(model, random_samples(3))


def test_micro_batches_add_up_to_the_gradient_of_one_batch(qwen: PreTrainedModel) -> None:
    samples = random_samples(0)
    weights = [torch.ones(sum(one.mask)) for one in samples]
    whole = packed_gradients(qwen, samples, weights)
    assert len(pack(samples, max_tokens=60)) > 3
    for name, gradient in packed_gradients(qwen, samples, weights, max_tokens=60).items():
        torch.testing.assert_close(gradient, whole[name], atol=1e-4, rtol=1e-4, msg=name)


def test_no_gradient_stays_behind_after_scoring(qwen: PreTrainedModel) -> None:
    packed_logprobs(qwen, random_samples(0))
    assert gradients(qwen) == {}


def test_entropy_is_that_of_the_tempered_distribution(qwen: PreTrainedModel) -> None:
    one = sample([3, 4, 5], [False, False, True], temperature=0.5)
    (batch,) = pack([one], max_tokens=10)
    entropy = score_batch(qwen, batch, torch.tensor([0.5])).entropy_N
    logits = qwen(input_ids=torch.tensor([[3, 4]])).logits[0, -1] / 0.5
    expected = torch.distributions.Categorical(logits=logits).entropy()
    torch.testing.assert_close(entropy, expected[None].detach(), atol=1e-5, rtol=1e-5)


def test_the_attention_set_before_comes_back_also_after_an_error(qwen: PreTrainedModel) -> None:
    before = qwen.config._attn_implementation
    with pytest.raises(ZeroDivisionError), packed_attention_enabled(qwen):
        raise ZeroDivisionError
    packed_logprobs(qwen, random_samples(0))
    assert qwen.config._attn_implementation == before == "sdpa"


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: tiny("Mamba", state_size=4), "linear_attention"),
        (lambda: tiny("Bloom"), "cannot be replaced"),
        (lambda: tiny("GptOss"), "attention sinks"),
    ],
)
def test_a_model_that_mixes_tokens_otherwise_is_refused(
    make: Callable[[], PreTrainedModel], reason: str
) -> None:
    with pytest.raises(BackboneError, match=reason):
        verify_packed_pass(make())


def test_a_model_is_held_against_plain_attention_whatever_it_was_loaded_with() -> None:
    def without_cap(*arguments: Any, softcap: float, **others: Any) -> object:
        return sdpa_attention_forward(*arguments, **others)

    AttentionInterface.register("without_cap", without_cap)
    model = tiny("Gemma2", **{**FAMILIES["Gemma2"], "attn_logit_softcapping": 0.5})
    model.set_attn_implementation("without_cap")
    verify_packed_pass(model)
    assert model.config._attn_implementation == "without_cap"


def test_a_model_whose_logits_are_made_in_an_unknown_way_is_refused(
    qwen: PreTrainedModel,
) -> None:
    handle = qwen.register_forward_hook(lambda _module, _inputs, output: _with_halved(output))
    try:
        with pytest.raises(BackboneError, match="nats away from its own forward"):
            verify_packed_pass(qwen)
    finally:
        handle.remove()


def _with_halved(output: Any) -> Any:
    output.logits = output.logits / 2
    return output


# --- The layout, without a model


def visible_ids(batch: PackedBatch, place: int) -> list[int]:
    """What the token at a place of the flat row attends to, in order, by the layout alone."""
    ids = batch.id_T.tolist()
    places: set[int] = set()
    for segment in batch.layout.shared:
        if segment.end <= place < segment.subtree_end:
            places |= set(range(segment.start, segment.end))
    for bucket in batch.layout.buckets:
        for row in bucket.source_BQ.tolist():
            if row[0] <= place <= row[-1]:
                places |= set(range(row[0], place + 1))
    return [ids[index] for index in sorted(places)]


def assert_layout_is_right(samples: Sequence[TrainSample], batches: Sequence[PackedBatch]) -> None:
    """Every trained token is predicted once, from exactly the tokens before it."""
    seen: list[tuple[int, tuple[int, ...], int]] = []
    for batch in batches:
        covered = torch.cat([bucket.flat_T for bucket in batch.layout.buckets])
        assert sorted(covered.tolist()) == list(range(batch.num_tokens))
        predictors = batch.predictor_N.tolist()
        for place, target, index in zip(
            predictors, batch.target_N.tolist(), batch.sample_N.tolist(), strict=True
        ):
            context = visible_ids(batch, place)
            assert batch.position_T[place] == len(context) - 1
            seen.append((index, tuple(context), target))
    expected = [
        (index, one.ids[:position], one.ids[position])
        for index, one in enumerate(samples)
        for position, is_trained in enumerate(one.mask)
        if is_trained
    ]
    assert sorted(seen) == sorted(expected)


@st.composite
def sample_lists(draw: st.DrawFn) -> list[TrainSample]:
    """Up to 12 samples over three tokens, so that they share much and in many ways."""
    stems = draw(st.lists(st.lists(st.integers(0, 2), max_size=40), min_size=1, max_size=4))
    samples = []
    for _ in range(draw(st.integers(1, 12))):
        prompt = draw(st.sampled_from(stems)) + draw(st.lists(st.integers(0, 2), max_size=5))
        prompt = prompt or [0]
        mask = [*draw(st.lists(st.booleans(), max_size=6)), True]
        samples.append(sample(prompt + [1] * len(mask), [False] * len(prompt) + mask))
    return samples


@settings(max_examples=150)
@given(samples=sample_lists(), max_tokens=st.integers(1, 200))
def test_any_samples_in_any_micro_batches_are_laid_out_right(
    samples: list[TrainSample], max_tokens: int
) -> None:
    batches = pack(samples, max_tokens=max_tokens)
    assert_layout_is_right(samples, batches)
    for batch in batches:
        assert batch.num_tokens <= max_tokens or len(batch.sample_N.unique()) == 1


def group(system: int, prompt: int, replies: Sequence[int], seed: int = 0) -> list[TrainSample]:
    """Samples with a common system prompt and prompt of so many tokens, and such replies."""
    generator = random.Random(seed)
    shared = [7] * system + [1000 + seed + i for i in range(prompt)]
    return [
        sample(
            shared + [generator.randrange(VOCABULARY) for _ in range(reply)],
            [False] * len(shared) + [True] * reply,
        )
        for reply in replies
    ]


def test_the_prompt_of_a_group_is_computed_once() -> None:
    (batch,) = pack(group(0, 30, [5, 6, 7]), max_tokens=1000)
    # The last token of each sample predicts nothing and is left out.
    assert batch.num_tokens == 30 + 4 + 5 + 6


def test_a_system_prompt_is_computed_once_for_all_groups() -> None:
    samples = group(80, 30, [10] * 8) + group(80, 30, [10] * 8, seed=500)
    (batch,) = pack(samples, max_tokens=1000)
    assert batch.num_tokens == 80 + 2 * (30 + 8 * 9)


def test_an_overlap_that_saves_little_is_not_split_off() -> None:
    length = MIN_SAVED_TOKENS["cpu"] - 1
    (batch,) = pack(group(0, length, [3, 3]), max_tokens=1000)
    assert batch.num_tokens == 2 * (length + 2)
    (batch,) = pack(group(0, length, [3, 3, 3]), max_tokens=1000)
    assert batch.num_tokens == length + 3 * 2


def test_tokens_that_are_trained_are_never_shared() -> None:
    twins = [sample([5] * 40, [False] * 20 + [True] * 20)] * 2
    (batch,) = pack(twins, max_tokens=1000)
    assert batch.num_tokens == 20 + 2 * 19
    assert batch.predictor_N.unique().numel() == 39


def test_nothing_behind_the_last_trained_token_is_computed() -> None:
    (batch,) = pack([sample(range(10), [False] * 4 + [True] + [False] * 5)], max_tokens=1000)
    assert batch.id_T.tolist() == [0, 1, 2, 3]
    assert batch.predictor_N.tolist() == [3]
    assert batch.target_N.tolist() == [4]


def test_a_sample_longer_than_a_micro_batch_goes_alone() -> None:
    samples = group(0, 50, [5]) + group(0, 5, [3, 3], seed=100)
    sizes = sorted(batch.num_tokens for batch in pack(samples, max_tokens=20))
    assert sizes == [14, 54]


def test_no_samples_make_no_batch() -> None:
    assert pack([], max_tokens=10) == []
