"""Seconds of one training step: padded, packed, and packed with shared prompts.

    python benchmarks/training_speed.py --model FOLDER_OR_HUB_NAME

The three do the same work on made-up samples in turn: log-probabilities, clipped loss, gradients
and one AdamW update with float32 masters. "padded" is what a plain loop over transformers does: one
group at a time, padded to its longest sample, logits of every position. The figure to look at is
the ratio within one run; seconds depend on what else the machine does.
"""

import argparse
import os
import platform
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import transformers
from transformers import PreTrainedModel

from astuner.algorithm.loss import LossInputs, ppo_clip
from astuner.models.load import LoadedModel, load_policy
from astuner.training.optimizer import MasterAdamW, OptimizerSettings
from astuner.training.settings import PolicyTrainerSettings
from astuner.training.trainer import PolicyTrainer
from astuner.trajectory.samples import TrainSample

OPTIMIZER = OptimizerSettings(
    learning_rate=1e-6, warmup_updates=0, weight_decay=0.01, max_grad_norm=1.0
)


def main() -> None:
    options = parse_options()
    torch.set_num_threads(options.threads)
    policy = load_policy(options.model, dtype=options.dtype, device=options.device)
    samples = make_samples(options)
    print_setting(options, policy, samples)
    ways = make_ways(options, policy, samples)
    rounds: dict[str, list[Timing]] = {name: [] for name in ways}
    for _ in range(options.rounds):
        for name, step in ways.items():
            rounds[name].append(timed(step))
            print(f"done      {name} in {rounds[name][-1].clock:.1f} s", flush=True)
    print_result(rounds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Seconds of one step."""

    clock: float
    processor: float
    """Of all threads together."""


def timed(step: Callable[[], object]) -> Timing:
    clock, processor = time.perf_counter(), time.process_time()
    step()
    return Timing(clock=time.perf_counter() - clock, processor=time.process_time() - processor)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="folder or hub name")
    parser.add_argument("--dtype", default="auto", choices=["auto", "bfloat16", "float32"])
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=3, help="steps of each kind; the best counts")
    parser.add_argument("--groups", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=8, help="samples of a group")
    parser.add_argument("--system", type=int, default=80, help="tokens common to all groups")
    parser.add_argument("--question", type=int, default=30, help="tokens common to a group")
    parser.add_argument("--reply", type=int, nargs=2, default=(10, 40), help="least and most")
    parser.add_argument("--max-tokens", type=int, default=4096, help="of a micro-batch")
    parser.add_argument("--without-padded", action="store_true")
    return parser.parse_args()


def make_samples(options: argparse.Namespace) -> list[TrainSample]:
    generator = random.Random(0)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(generator.randrange(300, 10_000) for _ in range(count))

    system, samples = ids(options.system), []
    for group in range(options.groups):
        prompt = system + ids(options.question)
        for attempt in range(options.repeats):
            reply = ids(generator.randint(*options.reply))
            samples.append(
                TrainSample(
                    ids=prompt + reply,
                    mask=(False,) * len(prompt) + (True,) * len(reply),
                    logprobs=(0.0,) * len(prompt) + (-10.0,) * len(reply),
                    advantage=generator.choice([-1.0, 1.0]),
                    temperature=1.0,
                    weight_version=0,
                    task_id=str(group),
                    episode_id=f"{group}-{attempt}",
                )
            )
    return samples


def make_ways(
    options: argparse.Namespace, policy: LoadedModel, samples: list[TrainSample]
) -> dict[str, Callable[[], object]]:
    settings = PolicyTrainerSettings(
        optimizer=OPTIMIZER,
        mini_batch_num=1,
        max_token_len_per_gpu=options.max_tokens,
        policy_loss="ppo_clip",
        loss_aggregation="token-mean",
        clip_low=0.2,
        clip_high=0.2,
        use_kl_loss=False,
        kl_loss_coef=0.0,
        kl_loss_type="low_var_kl",
    )
    trainer = PolicyTrainer(policy.model, settings, seed=0)
    # With a first token of its own, no sample shares anything with another.
    apart = [replace(s, ids=(300 + i, *s.ids[1:])) for i, s in enumerate(samples)]
    ways: dict[str, Callable[[], object]] = {
        "packed, nothing shared": lambda: trainer.train_step(apart),
        "packed, prompts shared": lambda: trainer.train_step(samples),
    }
    if options.without_padded:
        return ways
    other = load_policy(options.model, dtype=options.dtype, device=options.device)
    optimizer = MasterAdamW(other.model, OPTIMIZER)
    padded = {"padded": lambda: padded_step(other.model, optimizer, samples, options.repeats)}
    return padded | ways


def padded_step(
    model: PreTrainedModel, optimizer: MasterAdamW, samples: Sequence[TrainSample], rows: int
) -> None:
    num_trained = sum(sum(sample.mask) for sample in samples)
    for first in range(0, len(samples), rows):
        padded_backward(model, samples[first : first + rows], num_trained)
    optimizer.update()


def padded_backward(
    model: PreTrainedModel, samples: Sequence[TrainSample], num_trained: int
) -> None:
    longest = max(len(sample.ids) for sample in samples)
    shape, device = (len(samples), longest), model.device
    ids_BT = torch.zeros(shape, dtype=torch.long, device=device)
    attended_BT, mask_BT = (torch.zeros_like(ids_BT, dtype=torch.bool) for _ in range(2))
    sampled_BT = torch.zeros(shape, device=device)
    for row, sample in enumerate(samples):
        length = len(sample.ids)
        ids_BT[row, :length] = torch.tensor(sample.ids)
        attended_BT[row, :length] = True
        mask_BT[row, :length] = torch.tensor(sample.mask)
        sampled_BT[row, :length] = torch.tensor(sample.logprobs)
    logits_BTV = model(input_ids=ids_BT, attention_mask=attended_BT.long(), use_cache=False).logits
    logprob_BTV = logits_BTV[:, :-1].float().log_softmax(-1)
    logprob_BT = logprob_BTV.gather(2, ids_BT[:, 1:, None]).squeeze(2)
    advantage_B1 = torch.tensor([[sample.advantage] for sample in samples], device=device)
    inputs = LossInputs(
        logprobs_N=logprob_BT,
        old_logprobs_N=sampled_BT[:, 1:],
        advantages_N=advantage_B1,
        clip_low=0.2,
        clip_high=0.2,
    )
    loss_BT = ppo_clip(inputs).loss_N
    (loss_BT * mask_BT[:, 1:]).sum().div(num_trained).backward()


def print_setting(
    options: argparse.Namespace, policy: LoadedModel, samples: Sequence[TrainSample]
) -> None:
    num_parameters = sum(p.numel() for p in policy.model.parameters())
    num_tokens = sum(len(sample.ids) for sample in samples)
    place = torch.cuda.get_device_name() if policy.device.type == "cuda" else processor_name()
    print(f"machine   {platform.platform()}, {place}, {options.threads} threads")
    print(f"versions  torch {torch.__version__}, transformers {transformers.__version__}")
    print(f"model     {policy.name_or_path}, {num_parameters / 1e6:.0f}M, {policy.dtype}")
    print(
        f"samples   {options.groups} groups of {options.repeats}, {num_tokens} tokens; prompts of "
        f"{options.system} common and {options.question} own, replies of {options.reply}"
    )


def processor_name() -> str:
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text().splitlines() if facts.exists() else []
    names = [line for line in lines if line.startswith("model name")]
    return names[0].split(":")[1].strip() if names else platform.processor()


def print_result(rounds: dict[str, list[Timing]]) -> None:
    print(f"{'best of the rounds':24}{'clock':>10}{'processor':>12}{'times faster (clock)':>24}")
    best = {
        name: (min(t.clock for t in timings), min(t.processor for t in timings))
        for name, timings in rounds.items()
    }
    slowest = max(clock for clock, _ in best.values())
    for name, (clock, processor) in best.items():
        print(f"{name:24}{clock:8.2f} s{processor:10.2f} s{slowest / clock:24.2f}", flush=True)


if __name__ == "__main__":
    main()
