"""A tiny real model that was taught to call one tool and then to answer, in a few seconds.

A random model never writes a tool call. This one saw the very conversation often enough to repeat
it, with one of two answers at the end, so that groups have spread.
"""

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from astuner.inference.template import ChatTemplate
from tests.tiny_model import make_tiny_model

_UPDATES = 130


def make_taught_model(folder: Path, conversations: list[list[dict]], tools: list[dict]) -> None:
    """Save a tiny model that answers as `conversations`, of equal length in tokens, go on.

    What stands up to the first user message is not learned.
    """
    make_tiny_model(folder)
    template = ChatTemplate(AutoTokenizer.from_pretrained(folder))
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = torch.tensor([template.prompt_ids(c, tools) for c in conversations])
    labels = ids.clone()
    labels[:, : len(template.prompt_ids(conversations[0][:2], tools))] = -100
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(_UPDATES):
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
