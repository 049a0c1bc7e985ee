"""What an evaluation costs beside the model: wall time, and the share of it outside the engine.

    python benchmarks/evaluation_cost.py --model FOLDER --gsm8k test.jsonl --num-tasks 24

The tasks are lines with question and answer, as GSM8K has them. Outside the engine is whatever time
no call waits for it, from the first call to the last file; loading is told apart.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from astuner.backbone import asked_model
from astuner.config.load import LoadedConfig, load_config
from astuner.config.source import text_override
from astuner.evaluating.evaluations import evaluate
from astuner.evaluating.order import EvaluationOrder

WORKFLOW = """
from astuner import Workflow, WorkflowOutput

class Answering(Workflow):
    name: str = "answering"

    async def execute(self, workflow_task, model_tuner):
        client = model_tuner.as_raw_openai_sdk_client()
        asked = [{"role": "user", "content": workflow_task.task.main_query}]
        reply = await client.chat.completions.create(model="m", messages=asked)
        return WorkflowOutput(metadata={"final_answer": reply.choices[0].message.content})
"""


def write_project(folder: Path, parsed: argparse.Namespace) -> Path:
    with parsed.gsm8k.open(encoding="utf-8") as file:
        rows = [json.loads(line) for line, _ in zip(file, range(parsed.num_tasks), strict=False)]
    tasks = [
        {"main_query": row["question"], "metadata": {"answer": row["answer"].split("####")[-1]}}
        for row in rows
    ]
    (folder / "tasks.jsonl").write_text("".join(f"{json.dumps(task)}\n" for task in tasks))
    (folder / "answering.py").write_text(WORKFLOW)
    files = {"file_path": "tasks.jsonl"}
    settings = {
        "model": {"path": str(parsed.model.resolve())},
        "task_reader": {
            "type": "jsonl_dataset_file",
            "jsonl_dataset_file": {"training": files, "validation": files},
        },
        "data": {"max_prompt_length": 600, "max_response_length": parsed.max_tokens},
        "rollout": {
            "agentscope_workflow": "answering.py->Answering",
            "max_model_len": 1024 + parsed.max_tokens,
            "max_response_length_in_one_turn": parsed.max_tokens,
            "max_env_worker": parsed.parallel,
            "max_num_seqs": parsed.parallel,
            "compute_madness_checklist": [],
        },
        "task_judge": {
            "judge_protocol": "astuner.task_judge.math_answer_as_judge->MathAnswerAsJudge"
        },
    }
    conf = folder / "answering.yaml"
    conf.write_text(yaml.safe_dump({"astuner": settings}))
    return conf


class WatchedEngine:
    """Counts the time in which at least one call waits for the engine."""

    def __init__(self) -> None:
        self.first_call: float | None = None
        self.asked_seconds = 0.0
        self._num_waiting = 0
        self._begin = 0.0

    def around(self, engine: Any) -> Any:
        generate = engine.generate

        async def watched(*arguments: Any, **named: Any) -> Any:
            now = time.monotonic()
            self.first_call = self.first_call or now
            self._begin = self._begin if self._num_waiting else now
            self._num_waiting += 1
            try:
                return await generate(*arguments, **named)
            finally:
                self._num_waiting -= 1
                if not self._num_waiting:
                    self.asked_seconds += time.monotonic() - self._begin

        engine.generate = watched
        return engine


def measure(conf: Path) -> dict[str, float]:
    watched, make = WatchedEngine(), asked_model.make_token_chat

    def make_watched(run: Any, engine: Any, *arguments: Any, **named: Any) -> Any:
        is_seen = named.get("is_trained", True)
        return make(run, watched.around(engine) if is_seen else engine, *arguments, **named)

    asked_model.make_token_chat = make_watched
    begin = time.monotonic()
    found = evaluate(EvaluationOrder(load=lambda settings: _load(conf, settings)))
    end = time.monotonic()
    (model,) = found.models
    assert model.scores is not None and model.scores.total.costs and watched.first_call
    rolled_out = end - watched.first_call
    return {
        "tasks": model.scores.total.num_tasks,
        "failed": model.scores.total.num_failed,
        "seconds before the first call": watched.first_call - begin,
        "seconds from it to the end": rolled_out,
        "of these outside the engine, %": 100 * (1 - watched.asked_seconds / rolled_out),
        "sampled tokens an episode": model.scores.total.costs.sampled_tokens,
    }


def _load(conf: Path, settings: Mapping[str, Any]) -> LoadedConfig:
    changed = [
        f"astuner.{key}=null" if value is None else text_override(f"astuner.{key}", value)
        for key, value in settings.items()
    ]
    return load_config(conf, changed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--gsm8k", type=Path, required=True)
    parser.add_argument("--num-tasks", type=int, default=24)
    parser.add_argument("--max-tokens", type=int, default=256)
    parser.add_argument("--parallel", type=int, default=16)
    parsed = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        conf = write_project(Path(folder), parsed)
        os.chdir(folder)
        for name, value in measure(conf).items():
            print(f"{name:32} {value:10.2f}")


if __name__ == "__main__":
    main()
