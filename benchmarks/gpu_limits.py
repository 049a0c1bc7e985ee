"""How close generation and the training pass come to what one GPU can do."""

import argparse
import asyncio
import json
import random
import tempfile
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import transformers
from torch.profiler import ProfilerActivity, profile
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel, Qwen2Config

from astuner.engine.continuous import ContinuousBatchingEngine
from astuner.engine.limits import EngineLimits
from astuner.engine.protocol import Sampling
from astuner.machine.heap import lasting_heap
from astuner.models.fused_layers import use_fused_layers
from astuner.training.optimizer import OptimizerSettings
from astuner.training.settings import PolicyTrainerSettings
from astuner.training.trainer import PolicyTrainer
from astuner.trajectory.samples import TrainSample

DESCRIPTION = """\
Measure one part of a step with random weights of a given shape, in bfloat16, on one GPU.

    python -m benchmarks.gpu_limits train --shape qwen2-1.5b
    python -m benchmarks.gpu_limits generate --shape qwen2-1.5b

train     one update from --samples samples of --length tokens, half of them trained, nothing
          shared. Model FLOPs are 6 per parameter of the layers and token, 6 per parameter of the
          output layer and trained token, and 12 x layers x hidden size x mean distance per token
          for causal attention; layers that checkpointing computes again are not counted again.
          They are compared with the rate of an 8192 x 8192 x 8192 bfloat16 product.
generate  --requests prompts of --prompt tokens, --new tokens each, log-probabilities included; the
          third run counts, when passes of all sizes are recorded. The floor is the time to read,
          in every pass, all weights and all cached keys and values at the measured bandwidth of a
          copy. With --engine vllm, vLLM alone on the same requests, as its own `LLM` runs them,
          without detokenizing; the second run finds no prompts cached, as ours; log-probabilities
          come flat (flat_logprobs) and as objects, which is its default.
          --no-logprobs measures vLLM without log-probabilities too. Training needs them, so our
          engine knows no such calls.
          --turns lets each request go on so many times, as an agent does: behind its completion,
          of half to one and a half times --new tokens, come --observed ones of a tool. Our engine
          alone.
"""

SHAPES: dict[str, Any] = {
    "smollm2-135m": LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
    ),
    "qwen2-0.5b": Qwen2Config(
        vocab_size=151936,
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    ),
    "qwen2-1.5b": Qwen2Config(
        vocab_size=151936,
        hidden_size=1536,
        intermediate_size=8960,
        num_hidden_layers=28,
        num_attention_heads=12,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    ),
    "qwen2-7b": Qwen2Config(
        vocab_size=152064,
        hidden_size=3584,
        intermediate_size=18944,
        num_hidden_layers=28,
        num_attention_heads=28,
        num_key_value_heads=4,
        tie_word_embeddings=False,
    ),
}


ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM"}


def make_model(shape: str, *, fused: bool = False) -> PreTrainedModel:
    torch.manual_seed(0)
    with torch.device("cuda"):
        model = AutoModelForCausalLM.from_config(SHAPES[shape], dtype=torch.bfloat16).eval()
    if fused:
        use_fused_layers(model)
    return model


def seconds_of(work: Callable[[], object]) -> float:
    torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - started


def matmul_rate() -> float:
    """FLOP/s of a large bfloat16 product of random numbers."""
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    for _ in range(3):
        a @ b
    return 10 * 2 * 8192**3 / seconds_of(lambda: [a @ b for _ in range(10)])


def copy_rate() -> float:
    """Bytes/s read and written by a copy on the device."""
    source = torch.empty(2**31, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    target.copy_(source)
    return 10 * 2 * source.numel() / seconds_of(lambda: [target.copy_(source) for _ in range(10)])


def ids(rng: random.Random, count: int) -> tuple[int, ...]:
    return tuple(rng.randrange(1000, 40_000) for _ in range(count))


def make_samples(arguments: argparse.Namespace) -> list[TrainSample]:
    rng, length = random.Random(0), arguments.length
    num_given = length // 2
    return [
        TrainSample(
            ids=ids(rng, length),
            mask=(False,) * num_given + (True,) * (length - num_given),
            logprobs=(0.0,) * num_given + (-12.0,) * (length - num_given),
            advantage=rng.choice([-1.0, 1.0]),
            temperature=1.0,
            weight_version=0,
            task_id=str(index),
            episode_id=str(index),
        )
        for index in range(arguments.samples)
    ]


def measure_training(arguments: argparse.Namespace) -> dict[str, Any]:
    model = make_model(arguments.shape, fused=arguments.fused)
    trainer = PolicyTrainer(
        model,
        PolicyTrainerSettings(
            optimizer=OptimizerSettings(
                learning_rate=1e-6, warmup_updates=0, weight_decay=0.0, max_grad_norm=1.0
            ),
            mini_batch_num=1,
            max_token_len_per_gpu=arguments.max_tokens,
            policy_loss="ppo_clip",
            loss_aggregation="token-mean",
            clip_low=0.2,
            clip_high=0.2,
            use_kl_loss=False,
            kl_loss_coef=0.0,
            kl_loss_type="k3",
            gradient_checkpointing=arguments.checkpointing,
        ),
        seed=0,
    )
    samples = make_samples(arguments)
    trainer.train_step(samples)
    torch.cuda.reset_peak_memory_stats()
    seconds = min(seconds_of(lambda: trainer.train_step(samples)) for _ in range(3))
    num_tokens = arguments.samples * arguments.length
    flops, peak = training_flops(model, arguments), matmul_rate()
    if arguments.profile:
        show_profile(lambda: trainer.train_step(samples))
    return {
        "seconds": round(seconds, 4),
        "tokens_per_second": round(num_tokens / seconds),
        "model_tflops_per_second": round(flops / seconds / 1e12, 1),
        "matmul_tflops_per_second": round(peak / 1e12, 1),
        "share": round(flops / seconds / peak, 3),
        "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2),
    }


def training_flops(model: PreTrainedModel, arguments: argparse.Namespace) -> float:
    config: Any = model.config
    num_tokens = arguments.samples * arguments.length
    embedding = config.vocab_size * config.hidden_size
    num_embeddings = 1 if config.tie_word_embeddings else 2
    in_layers = sum(p.numel() for p in model.parameters()) - num_embeddings * embedding
    head_size = config.hidden_size // config.num_attention_heads
    width = config.num_attention_heads * head_size
    attention = 12 * config.num_hidden_layers * width * arguments.length / 2
    return (6 * in_layers + attention) * num_tokens + 6 * embedding * num_tokens / 2


def measure_generation(arguments: argparse.Namespace) -> dict[str, Any]:
    model = make_model(arguments.shape, fused=arguments.fused)
    config: Any = model.config
    num_tokens = arguments.prompt + most_new(arguments)
    head_size = config.hidden_size // config.num_attention_heads
    token_bytes = 4 * config.num_hidden_layers * config.num_key_value_heads * head_size
    limits = EngineLimits(
        max_num_seqs=arguments.max_num_seqs or arguments.requests,
        max_model_len=num_tokens + 1,
        max_batch_tokens=arguments.max_tokens,
        max_cache_bytes=(arguments.requests + 8) * (num_tokens + 17) * token_bytes,
    )
    engine = ContinuousBatchingEngine(model, limits, seed=0)
    agents = make_agents(arguments)
    num_new = sum(turn.num_new for turns in agents for turn in turns)
    first, _, third = (run_engine(engine, agents) for _ in range(3))
    if arguments.profile:
        arguments.new = min(arguments.new, 48)
        show_profile(lambda: run_engine(engine, make_agents(arguments)))
    num_passes = num_new / limits.max_num_seqs
    weights = sum(p.numel() for p in model.parameters()) * 2
    num_behind = arguments.turns * arguments.new + (arguments.turns - 1) * arguments.observed
    cached = limits.max_num_seqs * (arguments.prompt + num_behind / 2) * token_bytes
    bandwidth = copy_rate()
    floor = num_passes * (weights + cached) / bandwidth
    return {
        "first_seconds": round(first, 3),
        "seconds": round(third, 3),
        "new_tokens_per_second": round(num_new / third),
        "copy_tb_per_second": round(bandwidth / 1e12, 2),
        "floor_seconds": round(floor, 3),
        "times_floor": round(third / floor, 2),
        "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2),
    }


class Turn(NamedTuple):
    """What an agent asks for next."""

    observed: tuple[int, ...]
    """What stands behind its completion before: the prompt, or what a tool said."""
    num_new: int


def make_agents(arguments: argparse.Namespace) -> list[list[Turn]]:
    rng = random.Random(1)
    agents = []
    for prompt in make_prompts(arguments):
        turns = [Turn(prompt, arguments.new)]
        if arguments.turns > 1:
            turns = [
                Turn(
                    ids(rng, arguments.observed) if i else prompt,
                    rng.randint(arguments.new // 2, arguments.new * 3 // 2),
                )
                for i in range(arguments.turns)
            ]
        agents.append(turns)
    return agents


def most_new(arguments: argparse.Namespace) -> int:
    """Tokens behind a prompt."""
    if arguments.turns == 1:
        return arguments.new
    return arguments.turns * (arguments.new * 3 // 2 + arguments.observed)


def make_prompts(arguments: argparse.Namespace) -> list[tuple[int, ...]]:
    rng = random.Random(0)
    return [ids(rng, arguments.prompt) for _ in range(arguments.requests)]


def rate(arguments: argparse.Namespace, seconds: float) -> int:
    return round(arguments.requests * arguments.new / seconds)


def measure_vllm(arguments: argparse.Namespace) -> dict[str, Any]:
    import vllm  # type: ignore[import-not-found]  # an extra
    from vllm import LLM, SamplingParams  # type: ignore[import-not-found]  # an extra

    prompts = [{"prompt_token_ids": list(prompt)} for prompt in make_prompts(arguments)]
    with tempfile.TemporaryDirectory() as folder:
        config = SHAPES[arguments.shape]
        config.architectures = [ARCHITECTURES[config.model_type]]
        config.save_pretrained(folder)
        llm = LLM(
            model=folder,
            load_format="dummy",
            dtype="bfloat16",
            skip_tokenizer_init=True,
            max_model_len=arguments.prompt + arguments.new + 1,
            max_num_seqs=arguments.max_num_seqs or arguments.requests,
            gpu_memory_utilization=0.6,
            enable_prefix_caching=False,
        )

    def rate_with(**options: Any) -> int:
        params = SamplingParams(
            temperature=1.0,
            max_tokens=arguments.new,
            ignore_eos=True,
            detokenize=False,
            **options,
        )
        _, seconds = (
            seconds_of(lambda: llm.generate(prompts, params, use_tqdm=False)) for _ in range(2)
        )
        return rate(arguments, seconds)

    found = {
        "vllm": vllm.__version__,
        "new_tokens_per_second": rate_with(logprobs=0, flat_logprobs=True),
        "new_tokens_per_second_logprobs_as_objects": rate_with(logprobs=0),
    }
    if arguments.no_logprobs:
        found["new_tokens_per_second_without_logprobs"] = rate_with()
    return found


def run_engine(engine: ContinuousBatchingEngine, agents: list[list[Turn]]) -> float:
    async def act(caller: str, turns: list[Turn]) -> None:
        text: tuple[int, ...] = ()
        for index, (observed, num_new) in enumerate(turns):
            sampling = Sampling(
                temperature=1.0, top_p=1.0, top_k=-1, max_new_tokens=num_new, stop_ids=frozenset()
            )
            text += observed
            found = await engine.generate(text, sampling, caller=caller, index=index)
            text += found.ids

    async def run() -> None:
        async with engine.serving():
            await asyncio.gather(*(act(str(i), turns) for i, turns in enumerate(agents)))

    with lasting_heap():  # as a run does
        return seconds_of(lambda: asyncio.run(run()))


def show_profile(work: Callable[[], object]) -> None:
    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as found:
        work()
        torch.cuda.synchronize()
    print(found.key_averages().table(sort_by="self_cuda_time_total", row_limit=30))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["train", "generate"])
    parser.add_argument("--shape", choices=list(SHAPES), default="qwen2-1.5b")
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--length", type=int, default=1024, help="tokens of a sample")
    parser.add_argument("--max-tokens", type=int, default=32768, help="of a micro-batch, a pass")
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--requests", type=int, default=512)
    parser.add_argument("--prompt", type=int, default=256)
    parser.add_argument("--new", type=int, default=256)
    parser.add_argument("--turns", type=int, default=1)
    parser.add_argument("--observed", type=int, default=64, help="tokens between two turns")
    parser.add_argument("--max-num-seqs", type=int, help="default: all requests")
    parser.add_argument("--fused", action="store_true", help="norms and gates by Liger's kernels")
    parser.add_argument("--engine", choices=["transformers", "vllm"], default="transformers")
    parser.add_argument("--no-logprobs", action="store_true", help="measure vLLM without, too")
    parser.add_argument("--profile", action="store_true", help="print where the time goes")
    arguments = parser.parse_args()
    if arguments.no_logprobs and arguments.engine != "vllm":
        parser.error("--no-logprobs goes with --engine vllm: our engine knows no such calls")
    if arguments.what == "train":
        measure = measure_training
    else:
        measure = measure_vllm if arguments.engine == "vllm" else measure_generation
    machine = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "what": arguments.what,
        "shape": arguments.shape,
    }
    print(json.dumps({**machine, **measure(arguments)}), flush=True)


if __name__ == "__main__":
    main()
