"""What judging by a slow model costs a step, and what one judgement takes in tokens."""

import argparse
import json
import platform
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from astuner import AstunerJob, ModelTuner, Workflow, WorkflowOutput, WorkflowTask
from astuner.run_dir import read_json_lines
from benchmarks.sums import coin, make_sums

DESCRIPTION = """\
Train a few steps on small sums by the real loop, judged in three ways.

    python -m benchmarks.judging_cost models/smollm2-135m-instruct

  without   the workflow gives the reward
  slow      LlmAsJudge over HTTP; the server takes --seconds for an answer and --at-once together
  cached    the same once more, with the answers of that run in llm.cache_dir

Rewards are coin tosses fixed for each text in all of them, so that the three runs sample and train
the same. The first step, which warms up, is left out. Tokens are those of --tokenizer, of the
prompt of LlmAsJudge with its default rubric; the server answers with one sentence and a score.
"""


class AnswerWorkflow(Workflow):
    """One reply to a sum, left to the judge."""

    async def execute(self, workflow_task: WorkflowTask, model_tuner: ModelTuner) -> WorkflowOutput:
        question = {"role": "user", "content": workflow_task.task.main_query}
        reply = await model_tuner([question])
        text = "".join(block.get("text", "") for block in reply.content)
        return WorkflowOutput(metadata={"final_answer": text})


class TossedWorkflow(AnswerWorkflow):
    """The same, with the reward that the server would give."""

    async def execute(self, workflow_task: WorkflowTask, model_tuner: ModelTuner) -> WorkflowOutput:
        output = await super().execute(workflow_task, model_tuner)
        is_good = coin(output.metadata["final_answer"])
        return WorkflowOutput(reward=float(is_good), metadata=output.metadata)


@contextmanager
def slow_server(tokenizer: Any, *, seconds: float, at_once: int) -> Iterator[str]:
    """Gives the address of a server that grades by the answer's coin."""
    places = threading.Semaphore(at_once)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with places:
                time.sleep(seconds)
            body = json.dumps(_completion(tokenizer, asked["messages"][0]["content"])).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads, server.block_on_close = True, False
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _completion(tokenizer: Any, prompt: str) -> dict[str, Any]:
    marked = prompt.rpartition("<answer ")[2].partition(">\n")[2]
    answer = marked.partition("\n</answer ")[0]
    reason = "The answer comes to the same number as the reference answer, and says no more."
    text = json.dumps({"reason": reason, "score": 10 if coin(answer) else 0})
    return {
        "choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {
            "prompt_tokens": len(tokenizer.encode(prompt)),
            "completion_tokens": len(tokenizer.encode(text)),
        },
    }


def tune(arguments: argparse.Namespace, **judging: object) -> list[dict[str, Any]]:
    """The lines of metrics of one run, without that of the first step."""
    sums = make_sums(arguments.tasks * (arguments.steps + 1), seed=0)
    for task in sums:
        task["metadata"] = {"answer": str(sum(task["metadata"]["numbers"]))}
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "tasks.jsonl"
        data.write_text("".join(json.dumps(task) + "\n" for task in sums), encoding="utf-8")
        job = AstunerJob(model=arguments.model)
        workflow = AnswerWorkflow if judging else TossedWorkflow
        job.set_workflow(workflow, ensure_reward_in_workflow=not judging)
        job.set_data("jsonl_dataset_file", str(data))
        settings = {
            "experiment_dir": folder,
            "model.dtype": "float32",
            "data.train_batch_size": arguments.tasks,
            "data.max_prompt_length": 200,
            "data.max_response_length": arguments.length,
            "rollout.num_repeat": arguments.group,
            "rollout.max_env_worker": arguments.tasks * arguments.group,
            "rollout.max_num_seqs": arguments.tasks * arguments.group,
            "rollout.max_model_len": 512,
            "rollout.max_response_length_in_one_turn": arguments.length,
            "rollout.temperature": 1.0,
            "rollout.compute_madness_checklist": [],
            "trainer_common.total_training_steps": arguments.steps + 1,
            "trainer_common.save_freq": arguments.steps + 1,
            **judging,
        }
        for key, value in settings.items():
            job.set(key, value)
        return list(read_json_lines(job.tune().run_dir / "metrics.jsonl"))[1:]


def summary(lines: list[dict[str, Any]], *, without: float | None) -> dict[str, Any]:
    """Of the steps of one run; `without` are the seconds of a step that nobody judged."""
    step = statistics.median(line["step/seconds"] for line in lines)
    calls, hits = (sum(line.get(f"llm/{n}") or 0 for line in lines) for n in _COUNTS)
    tokens = {
        name: round(sum(line.get(f"llm/{name}") or 0 for line in lines) / (calls + hits), 1)
        for name in ("input_tokens", "output_tokens")
        if calls + hits
    }
    return {
        "step_seconds": round(step, 2),
        "rollout_seconds": round(statistics.median(line["rollout/seconds"] for line in lines), 2),
        "judging_share": None if without is None else round(max(0.0, 1 - without / step), 3),
        "episodes": sum(line["rollout/episodes"] for line in lines),
        "judge_calls": calls,
        "cache_hits": hits,
        "tokens_of_a_judgement": tokens,
    }


_COUNTS = ("calls", "cache_hits")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", metavar="MODEL_DIR")
    parser.add_argument("--tokenizer", metavar="DIR", help="of the judge; default: MODEL_DIR's")
    parser.add_argument("--seconds", type=float, default=2.0, help="of one answer of the judge")
    parser.add_argument("--at-once", type=int, default=64, help="answers of the judge")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--tasks", type=int, default=8)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--length", type=int, default=40, help="most tokens of an answer")
    arguments = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(arguments.tokenizer or arguments.model)
    found = {"without": summary(tune(arguments), without=None)}
    limits = {"seconds": arguments.seconds, "at_once": arguments.at_once}
    with tempfile.TemporaryDirectory() as cache, slow_server(tokenizer, **limits) as address:
        judging = {
            "task_judge.judge_protocol": "astuner.task_judge.llm_as_judge->LlmAsJudge",
            "task_judge.judge_timeout_seconds": 600,
            "llm.base_url": address,
            "llm.model": "judge",
            "llm.max_parallel": arguments.at_once,
            "llm.timeout_seconds": 600,
            "llm.cache_dir": cache,
        }
        for name in ("slow", "cached"):
            lines = tune(arguments, **judging)
            found[name] = summary(lines, without=found["without"]["step_seconds"])
    print(json.dumps({"machine": platform.machine(), "judging": found}, indent=2))


if __name__ == "__main__":
    main()
