"""Rollout speed of the local engine against transformers' static `generate`, on this machine."""

import argparse
import asyncio
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from astuner.engine.continuous import ContinuousBatchingEngine
from astuner.engine.limits import EngineLimits
from astuner.engine.protocol import Sampling

DESCRIPTION = """\
Compare new tokens per second of two ways to sample the same prompts with the same model.

  engine            ContinuousBatchingEngine of the local backbone. A sequence that ends makes room
                    for the next; always returns the log-probability of every sampled token.
  static            model.generate on one left-padded batch. The batch runs until its longest
                    sequence ends. Computes no log-probabilities.
  static+logprobs   the same, then log-probabilities from its logits, row by row and step by step.

Cases:
  fixed     every sequence gets exactly --new-tokens tokens; nothing can end early.
  varied    sequences end at the model's end token, or after a limit that differs between them
            (a quarter to four times --new-tokens), as the answers of a rollout do. Static
            batches of --max-num-seqs; only tokens that a request asked for are counted.

Prompts are "What is a + b?" in the model's chat template. Sampling is at temperature 1 without
top_k and top_p. The ways take turns in one process; ratios are of median speeds.

On a machine with other work, wall-clock figures mean little: threads of one operation wait for
each other. There, use --threads 1 and read the figures per CPU second.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What every way has to sample."""

    prompts: Sequence[Sequence[int]]
    limits: Sequence[int]
    """Most new tokens of each prompt."""
    stop_ids: frozenset[int]
    max_num_seqs: int


def sample_with_engine(engine: ContinuousBatchingEngine, work: Workload) -> int:
    """Returns the number of sampled tokens, as the other ways do."""
    sampling = Sampling(
        temperature=1.0, top_p=1.0, top_k=-1, max_new_tokens=1, stop_ids=work.stop_ids
    )

    async def sample() -> int:
        async with engine.serving():
            completions = await asyncio.gather(
                *(
                    engine.generate(prompt, replace(sampling, max_new_tokens=limit), caller=str(i))
                    for i, (prompt, limit) in enumerate(zip(work.prompts, work.limits, strict=True))
                )
            )
        return sum(len(completion.logprobs) for completion in completions)

    return asyncio.run(sample())


def sample_statically(model: PreTrainedModel, work: Workload, *, needs_logprobs: bool) -> int:
    model.eval()
    num_tokens = 0
    for start in range(0, len(work.prompts), work.max_num_seqs):
        chunk = slice(start, start + work.max_num_seqs)
        num_tokens += _sample_batch(
            model,
            replace(work, prompts=work.prompts[chunk], limits=work.limits[chunk]),
            needs_logprobs=needs_logprobs,
        )
    return num_tokens


@torch.inference_mode()
def _sample_batch(model: PreTrainedModel, work: Workload, *, needs_logprobs: bool) -> int:
    longest = max(len(prompt) for prompt in work.prompts)
    rows = [[0] * (longest - len(prompt)) + list(prompt) for prompt in work.prompts]
    mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in work.prompts]
    output = model.generate(
        input_ids=torch.tensor(rows),
        attention_mask=torch.tensor(mask),
        max_new_tokens=max(work.limits),
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        eos_token_id=sorted(work.stop_ids) or None,
        pad_token_id=0,
        output_logits=needs_logprobs,
        return_dict_in_generate=True,
    )
    new_ids = output.sequences[:, longest:]
    if needs_logprobs:
        for step, logits in enumerate(output.logits):
            logprobs = logits.float().log_softmax(-1)
            logprobs.gather(-1, new_ids[:, step : step + 1])
    return sum(
        _wanted_length(row, limit, work.stop_ids)
        for row, limit in zip(new_ids.tolist(), work.limits, strict=True)
    )


def _wanted_length(row: list[int], limit: int, stop_ids: frozenset[int]) -> int:
    for length, token_id in enumerate(row[:limit], start=1):
        if token_id in stop_ids:
            return length
    return min(len(row), limit)


def compare(name: str, ways: dict[str, Callable[[], int]], repetitions: int) -> None:
    """Run the ways in turn, after one run each to warm up, and print medians and ratios."""
    runs: dict[str, list[Speed]] = {way: [] for way in ways}
    for repetition in range(repetitions + 1):
        for way, sample in ways.items():
            speed = measure(sample)
            if repetition:
                runs[way].append(speed)
    medians = {way: _median(speeds) for way, speeds in runs.items()}
    print(f"\n{name:<17} tok/s   engine is    tok/CPU s   engine is    tok/s of the runs")
    for way, speed in medians.items():
        wall_ratio = medians["engine"].per_second / speed.per_second
        cpu_ratio = medians["engine"].per_cpu_second / speed.per_cpu_second
        print(
            f"  {way:<15} {speed.per_second:5.0f}     {wall_ratio:5.2f} x"
            f"       {speed.per_cpu_second:6.0f}     {cpu_ratio:5.2f} x    "
            + ", ".join(f"{run.per_second:.0f}" for run in runs[way]),
            flush=True,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """New tokens of one run by its two clocks."""

    per_second: float
    per_cpu_second: float


def measure(sample: Callable[[], int]) -> Speed:
    start, cpu_start = time.perf_counter(), time.process_time()
    num_tokens = sample()
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    return Speed(per_second=num_tokens / seconds, per_cpu_second=num_tokens / cpu_seconds)


def _median(speeds: Sequence[Speed]) -> Speed:
    return Speed(
        per_second=statistics.median(speed.per_second for speed in speeds),
        per_cpu_second=statistics.median(speed.per_cpu_second for speed in speeds),
    )


def print_machine() -> None:
    print(
        f"machine: {platform.processor() or platform.machine()}, {os.cpu_count()} cores, "
        f"{torch.get_num_threads()} threads; python {platform.python_version()}, "
        f"torch {torch.__version__}, transformers {transformers.__version__}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="folder or hub name of a causal language model")
    parser.add_argument("--dtype", default="bfloat16", help="of the weights (default: bfloat16)")
    parser.add_argument("--requests", type=int, default=64, help="prompts per run (default: 64)")
    parser.add_argument("--new-tokens", type=int, default=40, help="see Cases (default: 40)")
    parser.add_argument("--max-num-seqs", type=int, default=64, help="batch size (default: 64)")
    parser.add_argument("--repetitions", type=int, default=3, help="measured runs (default: 3)")
    parser.add_argument("--cases", nargs="+", default=["fixed", "varied"], help="of the two above")
    parser.add_argument("--threads", type=int, help="of torch (default: torch's own choice)")
    options = parser.parse_args()

    if options.threads:
        torch.set_num_threads(options.threads)
    print_machine()
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=options.dtype)
    questions = [f"What is {i} + {i // 2}?" for i in range(options.requests)]
    prompts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True, return_dict=False
        )
        for question in questions
    ]
    new_tokens = options.new_tokens
    end_ids = model.generation_config.eos_token_id
    end_ids = frozenset([end_ids] if isinstance(end_ids, int) else end_ids or ())
    varied_limits = [max(1, new_tokens * (1 + i * 7 % 16) // 4) for i in range(len(prompts))]
    cases = {
        "fixed": (frozenset(), [new_tokens] * len(prompts)),
        "varied": (end_ids, varied_limits),
    }
    limits = EngineLimits(max_num_seqs=options.max_num_seqs, max_model_len=2048)
    engine = ContinuousBatchingEngine(model, limits, seed=0)
    print(f"{len(prompts)} prompts of {min(map(len, prompts))} to {max(map(len, prompts))} tokens")
    for case in options.cases:
        stop_ids, new_token_limits = cases[case]
        work = Workload(
            prompts=prompts,
            limits=new_token_limits,
            stop_ids=stop_ids,
            max_num_seqs=options.max_num_seqs,
        )
        ways = {
            "engine": lambda work=work: sample_with_engine(engine, work),
            "static": lambda work=work: sample_statically(model, work, needs_logprobs=False),
            "static+logprobs": lambda work=work: sample_statically(
                model, work, needs_logprobs=True
            ),
        }
        compare(case, ways, options.repetitions)


if __name__ == "__main__":
    main()
