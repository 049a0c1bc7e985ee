"""New tokens a second with and without guessed tokens, on a GPU, for few requests at once."""

import argparse
import asyncio
import json
import time
from dataclasses import replace
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from astuner.engine.continuous import ContinuousBatchingEngine
from astuner.engine.limits import EngineLimits
from astuner.engine.protocol import Sampling
from astuner.models.fused_layers import use_fused_layers

DESCRIPTION = """\
Write answers with a real model, few at once, as at the end of a rollout, and once more without
guesses (rollout.speculation: false). The last of --turns counts: by then the engine knows what
answers to the same question said, as it does in a later step.

    python -m benchmarks.speculation models/smollm2-135m-instruct

  numbers  counting, which repeats itself
  copy     a text that is to be repeated
  story    free text
"""
PASSAGE = (
    "The ferry leaves the north pier at seven in the morning and at four in the afternoon. Tickets "
    "are sold on board. Bicycles travel free of charge, and dogs need a lead. In heavy weather the "
    "afternoon ferry waits at the island until the wind has fallen. "
)
QUESTIONS = {
    "numbers": "Write all numbers from 1 to 1000, separated by commas, and nothing else.",
    "copy": f"Repeat this text three times, word for word: {PASSAGE}",
    "story": "Tell a story about a girl who finds a map in an old house.",
}


async def answer(
    engine: ContinuousBatchingEngine, ids: list[int], arguments: argparse.Namespace, **wanted: Any
) -> float:
    """New tokens a second, of the last turn."""
    sampling = Sampling(
        temperature=wanted["temperature"],
        top_p=1.0,
        top_k=-1,
        max_new_tokens=arguments.new,
        stop_ids=frozenset(),
    )
    rate = 0.0
    for turn in range(arguments.turns):
        async with engine.serving():
            started = time.perf_counter()
            completions = await asyncio.gather(
                *(
                    engine.generate(ids, sampling, caller=f"{turn}-{i}")
                    for i in range(wanted["requests"])
                )
            )
            seconds = time.perf_counter() - started
        rate = sum(len(one.ids) for one in completions) / seconds
    return rate


def main() -> None:
    parser = argparse.ArgumentParser(
        description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", metavar="MODEL_DIR")
    parser.add_argument("--requests", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--temperatures", type=float, nargs="+", default=[1.0, 0.0])
    parser.add_argument("--new", type=int, default=256, help="tokens of each answer")
    parser.add_argument("--turns", type=int, default=3)
    arguments = parser.parse_args()
    tokenizer: Any = AutoTokenizer.from_pretrained(arguments.model)
    model: Any = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.bfloat16)
    model.cuda().eval()
    use_fused_layers(model)
    limits = EngineLimits(
        max_num_seqs=max(arguments.requests),
        max_model_len=1024,
        max_batch_tokens=8192,
    )
    print(torch.cuda.get_device_name())
    for kind, question in QUESTIONS.items():
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True, tokenize=False
        )
        ids = tokenizer.encode(text, add_special_tokens=False)
        for temperature in arguments.temperatures:
            for requests in arguments.requests:
                rates = {}
                for speculates in (False, True):
                    engine = ContinuousBatchingEngine(
                        model, replace(limits, speculates=speculates), seed=1
                    )
                    rates[speculates] = asyncio.run(
                        answer(engine, ids, arguments, temperature=temperature, requests=requests)
                    )
                line = {
                    "text": kind,
                    "temperature": temperature,
                    "requests": requests,
                    "without": round(rates[False]),
                    "with": round(rates[True]),
                    "times": round(rates[True] / rates[False], 2),
                }
                print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
