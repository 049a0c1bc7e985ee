"""A tiny real model that was taught what to say, in a few seconds.

A random model never writes a tool call. This one saw the very conversation often enough to repeat
it, with one of several answers at the end, so that groups have spread. Teaching takes seconds in
each process of tests that wants it, so what one made stands below build/ for the others.
"""

import contextlib
import hashlib
import json
import math
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import tokenizers
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

from astuner.inference.template import ChatTemplate
from astuner.trajectory.episode import Episode
from tests import tiny_model
from tests.tiny_model import make_tiny_model

_KEPT = Path(__file__).parent.parent / "build" / "taught"

_MAX_UPDATES = 130
_ENOUGH_NATS = 1.0
"""For what is learned of one conversation; the choice between two answers alone is ln 2."""
_NOT_LEARNED = -100


def make_taught_model(
    folder: Path, conversations: list[list[dict]], tools: list[dict], *, texts: Iterable[str] = ()
) -> None:
    """Save a tiny model that answers as `conversations`, of equal length in tokens, go on.

    What stands up to the first user message is not learned. With `texts` the tokenizer knows their
    words too, which makes long prompts short.
    """
    asked = [conversations, tools, list(texts)]
    kept = _KEPT / _digest(asked)
    if not kept.is_dir():
        _make_taught(folder, *asked)
        _keep(folder, kept)
    else:
        shutil.copytree(kept, folder, dirs_exist_ok=True)


def _digest(asked: object) -> str:
    """Of all that decides what the model is."""
    made_by = [Path(file).read_bytes() for file in (__file__, tiny_model.__file__)]
    versions = [torch.__version__, transformers.__version__, tokenizers.__version__]
    said = json.dumps([asked, versions]).encode()
    return hashlib.sha256(b"".join([*made_by, said])).hexdigest()[:16]


def _keep(folder: Path, kept: Path) -> None:
    with contextlib.suppress(OSError):  # another process was faster, or the checkout is read-only
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent) as beside:
            shutil.copytree(folder, Path(beside) / "model").rename(kept)


def _make_taught(
    folder: Path, conversations: list[list[dict]], tools: list[dict], texts: list[str]
) -> None:
    make_tiny_model(folder, texts=texts)
    template = ChatTemplate(AutoTokenizer.from_pretrained(folder))
    ids = torch.tensor([template.prompt_ids(c, tools) for c in conversations])
    labels = ids.clone()
    labels[:, : len(template.prompt_ids(conversations[0][:2], tools))] = _NOT_LEARNED
    _teach(folder, ids, labels, learning_rate=3e-3, max_grad_norm=math.inf, enough_nats=0.0)


def make_rehearsed_model(
    folder: Path,
    episodes: Iterable[Episode],
    decode: Callable[[Sequence[int]], str],
    *,
    max_positions: int,
) -> None:
    """Save a tiny model that says again what the model of `episodes` said.

    `decode` gives the text of the episodes' token ids.
    """
    sequences = dict.fromkeys(s.spans for episode in episodes for s in episode.sequences)
    texts = sorted(decode([id_ for span in spans for id_ in span.ids]) for spans in sequences)
    make_tiny_model(folder, max_positions=max_positions, texts=texts)
    template = ChatTemplate(AutoTokenizer.from_pretrained(folder))
    rows = []
    for spans in sequences:
        pieces = [(template.encode(decode(span.ids)), span.is_trained) for span in spans]
        rows.append([(id_, is_learned) for ids, is_learned in pieces for id_ in ids])
    ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
    labels = torch.full_like(ids, _NOT_LEARNED)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = torch.tensor([id_ for id_, _ in row])
        learned = [id_ if is_learned else _NOT_LEARNED for id_, is_learned in row]
        labels[index, : len(row)] = torch.tensor(learned)
    # Clipped, a long conversation is learned in a third of the updates.
    _teach(folder, ids, labels, learning_rate=6e-3, max_grad_norm=0.3, enough_nats=_ENOUGH_NATS)


def _teach(
    folder: Path,
    ids: torch.Tensor,
    labels: torch.Tensor,
    *,
    learning_rate: float,
    max_grad_norm: float,
    enough_nats: float,
) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate)
    num_learned = (labels != _NOT_LEARNED).sum().item() / len(labels)
    for _ in range(_MAX_UPDATES):
        loss = model(input_ids=ids, labels=labels).loss
        if loss.item() * num_learned < enough_nats:
            break
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
