"""The steps of TRL's GRPOTrainer on the tasks of `benchmarks.against_trl`.

Owns how TRL is set up, as it comes and tuned; what both sides have in common is told to it.
"""

import argparse
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.sums import coin, further_question, is_right, most_behind_prompt

BATCHED_TOKENS = 32768
"""Of a pass of vLLM; TRL sets 4096, and no setting of its own changes that."""
IMPORTANCE_BOUND = 2.0
"""`algorithm.rollout_importance_bound` where it is not set."""


def measure_trl(
    arguments: argparse.Namespace,
    tasks: Sequence[Mapping[str, Any]],
    *,
    micro_batch: int,
    options: Mapping[str, Any],
) -> dict[str, Any]:
    """Train on the tasks in their order, --tasks a step; the seconds, rewards and tokens of steps.

    `micro_batch` counts samples; `options` are those of GRPOConfig in which rows differ.
    """
    import torch
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    class Clock(TrainerCallback):
        """When each step began and ended."""

        def __init__(self) -> None:
            self.seconds: list[float] = []

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.started = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.seconds.append(time.perf_counter() - self.started)

    def reward_of(completions: Sequence[Any], answer: Sequence[int], **_: Any) -> list[float]:
        texts = [completion[0]["content"] for completion in completions]
        if arguments.reward == "coin":
            return [float(coin(text)) for text in texts]
        return [float(is_right(text, a)) for text, a in zip(texts, answer, strict=True)]

    num_samples = arguments.tasks * arguments.group
    micro_batch = min(micro_batch, num_samples)
    clock = Clock()
    options = dict(options)
    if arguments.turns > 1:
        own = {"max_tokens": arguments.new_tokens}
        options["generation_kwargs"] = options.get("generation_kwargs", {}) | own
    trainer = GRPOTrainer(
        model=arguments.model,
        reward_funcs=reward_of,
        train_dataset=Dataset.from_list([_row(task) for task in tasks]),
        peft_config=_adapter(arguments.lora_rank),
        callbacks=[clock],
        rollout_func=TurnTaker(tasks, group=arguments.group) if arguments.turns > 1 else None,
        args=GRPOConfig(
            output_dir=tempfile.mkdtemp(prefix="against_trl_"),
            model_init_kwargs={"dtype": arguments.dtype if arguments.lora_rank else "float32"},
            bf16=arguments.dtype == "bfloat16",
            use_cpu=not torch.cuda.is_available(),
            per_device_train_batch_size=micro_batch,
            gradient_accumulation_steps=num_samples // micro_batch,
            num_generations=arguments.group,
            max_completion_length=most_behind_prompt(arguments.turns, arguments.new_tokens),
            max_steps=arguments.steps,
            temperature=1.0,
            beta=0.0,
            learning_rate=arguments.lr,
            lr_scheduler_type="constant",
            weight_decay=0.0,
            max_grad_norm=1.0,
            loss_type="dapo",
            gradient_checkpointing=False,
            shuffle_dataset=False,
            save_strategy="no",
            report_to="none",
            logging_steps=1,
            disable_tqdm=True,
            seed=arguments.seed,
            **_engine(arguments),
            **options,
        ),
    )
    trainer.train()
    history = [entry for entry in trainer.state.log_history if "reward" in entry]
    return {
        "seconds": clock.seconds,
        "rewards": [entry["reward"] for entry in history],
        "tokens": [entry["completions/mean_length"] * num_samples for entry in history],
    }


class TurnTaker:
    """A rollout_func of TRL: the turns of all attempts at the tasks of a step, turn by turn."""

    def __init__(self, tasks: Sequence[Mapping[str, Any]], *, group: int) -> None:
        """The tasks in their order, of which each step takes as many as it has prompts."""
        self._numbers = (task["metadata"]["numbers"] for task in tasks for _ in range(group))
        self._ids_of: dict[int, list[int]] = {}

    def __call__(self, prompts: Sequence[Any], trainer: Any) -> dict[str, Any]:
        tokenizer = trainer.processing_class
        attempts = [next(self._numbers) for _ in prompts]
        prompt_ids = [
            tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=False)
            for prompt in prompts
        ]
        completion_ids: list[list[int]] = [[] for _ in prompts]
        logprobs: list[list[float]] = [[] for _ in prompts]
        is_sampled: list[list[int]] = [[] for _ in prompts]

        def add(at: int, ids: Sequence[int], known: Sequence[float] | None = None) -> None:
            completion_ids[at] += ids
            logprobs[at] += known or [0.0] * len(ids)
            is_sampled[at] += [int(known is not None)] * len(ids)

        for turn in range(1, len(attempts[0])):
            for at, numbers in enumerate(attempts if turn > 1 else ()):
                if completion_ids[at][-1] != tokenizer.eos_token_id:
                    add(at, [tokenizer.eos_token_id])
                add(at, self._question_ids(tokenizer, numbers[turn]))
            said = [[*a, *b] for a, b in zip(prompt_ids, completion_ids, strict=True)]
            _, ids, tops, _ = trainer.vllm_generation.generate(said, None, 1)
            for at, (new, top) in enumerate(zip(ids, tops, strict=True)):
                add(at, new, [of_one[0] for of_one in top])
        return {
            "prompt_ids": prompt_ids,
            "completion_ids": completion_ids,
            "logprobs": logprobs,
            "env_mask": is_sampled,
        }

    def _question_ids(self, tokenizer: Any, number: int) -> list[int]:
        """What stands between the end of a reply and the next one."""
        if number not in self._ids_of:
            messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
            before = tokenizer.apply_chat_template(messages, tokenize=False)
            messages += [{"role": "user", "content": further_question(number)}]
            text = tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True
            )
            end = before.rindex(tokenizer.eos_token) + len(tokenizer.eos_token)
            self._ids_of[number] = tokenizer.encode(text[end:], add_special_tokens=False)
        return self._ids_of[number]


def _row(task: Mapping[str, Any]) -> dict[str, Any]:
    question = {"role": "user", "content": task["main_query"]}
    return {"prompt": [question], "answer": sum(task["metadata"]["numbers"])}


def _adapter(rank: int) -> Any:
    if rank == 0:
        return None
    from peft import LoraConfig

    return LoraConfig(
        r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM"
    )


def _engine(arguments: argparse.Namespace) -> dict[str, Any]:
    if arguments.trl_engine == "vllm":
        return {
            "use_vllm": True,
            "vllm_mode": "colocate",
            "vllm_gpu_memory_utilization": 0.3,
            "vllm_max_model_length": 128
            + most_behind_prompt(arguments.turns, arguments.new_tokens),
        }
    if arguments.trl_engine == "paged":
        return {"use_transformers_continuous_batching": True}
    return {}


def tuned_options(*, with_vllm: bool) -> dict[str, Any]:
    """What makes a step of TRL shorter and leaves its result as it is."""
    options: dict[str, Any] = {"use_liger_kernel": True}
    if with_vllm:
        options["generation_kwargs"] = {"detokenize": False, "flat_logprobs": True}
    return options


def correction_options(*, is_on: bool) -> dict[str, Any]:
    """TRL's correction for the gap between vLLM and the trainer, as ours has it where it is on."""
    if not is_on:
        return {"vllm_importance_sampling_correction": False}
    return {
        "vllm_importance_sampling_correction": True,
        "vllm_importance_sampling_mode": "token_truncate",
        "vllm_importance_sampling_clip_max": IMPORTANCE_BOUND,
    }


def raise_batched_tokens() -> None:
    """Let TRL's vLLM read all prompts of a step in one or two passes."""
    from trl.generation import vllm_generation  # type: ignore[import-not-found]  # no dependency

    start = vllm_generation.LLM
    vllm_generation.LLM = lambda **options: start(
        **{**options, "max_num_batched_tokens": BATCHED_TOKENS}
    )
