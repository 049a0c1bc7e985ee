"""Models that grade, compare and draft by a script, behind a server; and runs that ask them."""

import asyncio
import functools
import gc
import json
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from astuner.config import LoadedConfig, load_config
from astuner.config.load import load_mapping
from astuner.launch import launch
from astuner.run_dir import RunDir
from tests.llm_server import Reply, ScriptedServer, make_model, says


def scored(scores: Iterable[float], reason: str = "so") -> Reply:
    """Scores for 1, 2 …"""
    rows = [
        {"number": number, "reason": reason, "score": score}
        for number, score in enumerate(scores, start=1)
    ]
    return says(json.dumps({"scores": rows}))


def proposed(*rubrics: Mapping[str, Any]) -> Reply:
    return says(json.dumps({"rubrics": [{"weight": 1, **rubric} for rubric in rubrics]}))


def prompt_of(body: Mapping[str, Any]) -> str:
    """The first question of a request, without what was said since."""
    return body["messages"][0]["content"]


def fenced_in(prompt: str, name: str) -> list[str]:
    """The texts between markers of that name, in order."""
    return re.findall(rf"<{name} (\w+)>\n(.*?)\n</{name} \1>", prompt, re.DOTALL)


def answers_in(prompt: str) -> list[str]:
    return [text for _, text in fenced_in(prompt, "answer")]


def compares_by(value: Callable[[str, int], float]) -> Callable[[dict[str, Any]], Reply]:
    """A model that scores each answer by its text and its place, counted from 0."""

    def answer(body: dict[str, Any]) -> Reply:
        texts = answers_in(prompt_of(body))
        return scored([value(text, place) for place, text in enumerate(texts)])

    return answer


def load_with(
    server: ScriptedServer, task_judge: Mapping[str, Any], **sections: Any
) -> LoadedConfig:
    """A debug run that asks no model itself, with its YAML in the current directory."""
    settings = {
        "backbone": "debug",
        "task_reader": {"type": "random_dummy"},
        "rollout": {"agentscope_workflow": "agents->Answering", "num_repeat": 2},
        "debug": {"openai_base_url": "http://127.0.0.1:9/v1", "openai_model": "none"},
        "llm": {"base_url": server.base_url, "model": "m"},
        "task_judge": dict(task_judge),
        **sections,
    }
    Path("job.yaml").write_text(yaml.safe_dump({"astuner": settings}))
    return load_config(Path("job.yaml"))


def run_dir_of(loaded: LoadedConfig) -> RunDir:
    """Of the run, once it is over. The connections of its judge, which end with the process of a
    run, end here too."""
    result = launch(loaded)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
    return RunDir(root=result.run_dir)


def ask_judge(
    judge_class: Callable[..., Any],
    server: ScriptedServer,
    task_judge: Mapping[str, Any],
    method: str,
    *asked: Any,
) -> Any:
    """What that method of the judge with these settings says; its model is the server's."""

    async def ask() -> Any:
        async with make_model(server.base_url) as model:
            judge = judge_class(_config_of(json.dumps(task_judge)), model=model)
            return await getattr(judge, method)(*asked)

    return asyncio.run(ask())


@functools.cache
def _config_of(task_judge: str) -> Any:
    settings = {
        "model": {"path": "m"},
        "rollout": {"agentscope_workflow": "a->B"},
        "task_judge": json.loads(task_judge),
    }
    return load_mapping({"astuner": settings}, name="test").config
