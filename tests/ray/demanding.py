"""What a run on a cluster has to heed beside its episodes, at no run of its own.

A model whose template reads a value, and whose turns end at another token than its replies' own;
and a task that cannot fit.
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import yaml
from transformers import AutoTokenizer

from astuner.trajectory.episode import Episode
from tests.tiny_model import CHAT_TEMPLATE

_UNASKED = "Be long."
_TOO_LONG = "too-long"


def make_demanding(conf: Path) -> None:
    """Change the run of a YAML, and the copy of its model that it gets."""
    content = yaml.safe_load(conf.read_text())
    settings, folder = content["astuner"], conf.parent / "demanding"
    shutil.copytree(settings["model"]["path"], folder)
    settings["model"]["path"] = str(folder)
    settings["rollout"]["chat_template_kwargs"] = {"is_brief": True}
    conf.write_text(yaml.safe_dump(content))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    unasked = f"<|im_start|>system\n{_UNASKED}<|im_end|>\n"
    prefix = "{% if not is_brief %}{{ " + repr(unasked) + " }}{% endif %}"
    tokenizer.chat_template = prefix + CHAT_TEMPLATE
    tokenizer.eos_token = tokenizer.pad_token
    tokenizer.save_pretrained(folder)
    for name in ("config.json", "generation_config.json"):
        named = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(named | {"eos_token_id": tokenizer.eos_token_id}))
    with (conf.parent / "tasks.jsonl").open("a") as file:
        task = {"main_query": "What is 2 plus 3? " * 200, "task_id": _TOO_LONG}
        file.write(json.dumps(task) + "\n")


def check_demanding(conf: Path, said: str, episodes: Sequence[Episode]) -> None:
    """The template had its value, replies ended where turns do, and the task was left out."""
    tokenizer = AutoTokenizer.from_pretrained(conf.parent / "demanding")
    calls = [call for episode in episodes for call in episode.calls]
    ended = [call.completion.ids for call in calls if call.completion.finish_reason == "stop"]
    assert len(ended) > len(calls) / 2  # a reply that goes astray runs into its limit
    assert {tokenizer.decode([ids[-1]]) for ids in ended} == {"<|im_end|>"}
    assert tokenizer.eos_token != "<|im_end|>"
    assert not any(_UNASKED in tokenizer.decode(call.prompt_ids) for call in calls)
    assert "tasks left out split=training tasks=1" in said and f"{_TOO_LONG} (" in said
    assert _TOO_LONG not in {episode.task.task_id for episode in episodes}
