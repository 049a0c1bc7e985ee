"""`astuner evaluate`: how good models are on tasks, without training."""

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from astuner.cli.output import write_out

if TYPE_CHECKING:
    from astuner.config.load import LoadedConfig
    from astuner.evaluating.evaluations import Evaluations
    from astuner.evaluating.order import EvaluationOrder

SUMMARY = "how good models are on your tasks, without training, with honest intervals"
EXAMPLE = "astuner evaluate --conf math_agent/math_agent.yaml --model base_model --model best"

_EPILOG = """\
which model:
  (nothing)                        model.path of the YAML
  best, last                       of the newest run of this YAML that has checkpoints
  2026-01-31_09-30-00              a run: its best checkpoint, else its last
  RUN/last, RUN/step_20            one of its checkpoints
  FOLDER                           a model, a checkpoint (an adapter too), or a run directory
  Qwen/Qwen2.5-0.5B-Instruct       a name on the hub
  http://127.0.0.1:8000/v1#NAME    a model behind an OpenAI-compatible address; its key stands in
                                   the environment variable of --api-key-env

examples:
  astuner evaluate --conf math_agent.yaml
                                   the model of the YAML, on its test split
  astuner evaluate --conf math_agent.yaml --model Qwen/Qwen2.5-0.5B-Instruct --model best
                                   before and after, in one table; the first is the baseline
  astuner evaluate --conf math_agent.yaml --model best --split held_out.jsonl --max-tasks 200
                                   on the first 200 tasks of a file
  astuner evaluate --conf math_agent.yaml --model best --repeat 8 \\
      astuner.rollout.val_kwargs.do_sample=true astuner.rollout.val_kwargs.temperature=0.7
                                   8 attempts at each task, by chance: pass@k and pass^k
  astuner evaluate --conf math_agent.yaml --model best --model https://api.openai.com/v1#gpt-4.1-mini
                                   against a closed model
  astuner evaluate --conf math_agent.yaml --model best --by source
                                   also for each source, or any field of the tasks' metadata

Episodes are sampled as in validations (rollout.val_kwargs), and rollout.max_env_worker run at once.
Each model gets a run directory beside those of training, which `astuner show`, `astuner logview`
and `astuner compare` read; `latest` stays where it is. A failed episode is counted apart, and is no
reward of 0.

The same command goes on where an earlier one was ended, and shows again what is whole: the same
model (its weights too), tasks, workflow, judge and settings. Failed episodes count as done, unless
--retry-failed does them again; --again begins anew. A YAML of verl or Trinity is evaluated on this
machine's own engine.

A model that cannot be loaded, or at which too many episodes fail, does not keep the others from
their turn.
Exit codes: 0 all models were evaluated; 1 one was not; 2 wrong usage or settings; 3 evaluation.gate
was not passed; 130 Ctrl-C, 143 SIGTERM, with a table of what there is.
"""


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="astuner evaluate",
        description="Run the workflow and judge of a YAML on tasks, without training: success, "
        "pass@k and reward of each model with intervals, and what an episode costs.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--conf", type=Path, required=True, metavar="FILE", help="your YAML file")
    parser.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="MODEL",
        help="what to evaluate; may be repeated (default: model.path of the YAML)",
    )
    parser.add_argument(
        "--split",
        metavar="test|validation|FILE",
        help="which tasks: a split of the YAML's reader, or a jsonl file (default: "
        "evaluation.split, else test where there is one, else validation)",
    )
    parser.add_argument(
        "--repeat",
        type=_count,
        metavar="N",
        help="attempts at each task (default: evaluation.num_repeat)",
    )
    parser.add_argument(
        "--max-tasks",
        type=_count,
        metavar="N",
        help="the first N tasks only (default: evaluation.max_tasks)",
    )
    parser.add_argument(
        "--by",
        metavar="FIELD",
        help="scores also for each value of this field: source, or one of the tasks' metadata",
    )
    parser.add_argument(
        "--again", action="store_true", help="begin anew, also where it was done or begun before"
    )
    parser.add_argument(
        "--retry-failed", action="store_true", help="do failed episodes of an earlier start again"
    )
    parser.add_argument(
        "--api-key-env",
        default="OPENAI_API_KEY",
        metavar="NAME",
        help="environment variable with the key of servers (default: OPENAI_API_KEY)",
    )
    parser.add_argument(
        "--exp-dir", metavar="DIR", help="folder of the run directories (default: launcher_record)"
    )
    parser.add_argument("--json", action="store_true", help="the scores as JSON")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="change a setting, as in astuner.rollout.max_env_worker=16",
    )
    return parser


def run(parsed: argparse.Namespace) -> int:
    from astuner.evaluating.evaluations import evaluate

    evaluations = evaluate(_order(parsed))
    if parsed.json:
        text = json.dumps(evaluations.as_json(), allow_nan=False).replace("\x7f", "\\u007f")
        write_out(f"{text}\n")
    else:
        _show(evaluations)
    if evaluations.ended_by is not None:
        raise evaluations.ended_by
    return evaluations.exit_code


def _order(parsed: argparse.Namespace) -> "EvaluationOrder":
    from astuner.config.source import text_override
    from astuner.evaluating.order import EvaluationOrder

    overrides = list(parsed.overrides)
    if parsed.exp_dir is not None:
        overrides.append(text_override("astuner.experiment_dir", parsed.exp_dir))
    return EvaluationOrder(
        load=lambda settings: _load(parsed.conf, overrides, settings),
        models=parsed.model,
        split=parsed.split,
        num_repeat=parsed.repeat,
        max_tasks=parsed.max_tasks,
        by=parsed.by,
        is_again=parsed.again,
        retries_failed=parsed.retry_failed,
        api_key_env=parsed.api_key_env,
    )


def _load(conf: Path, overrides: Sequence[str], settings: Mapping[str, Any]) -> "LoadedConfig":
    from astuner.config.load import load_config
    from astuner.config.source import text_override

    changed = [
        f"astuner.{key}=null" if value is None else text_override(f"astuner.{key}", value)
        for key, value in settings.items()
    ]
    return load_config(conf, [*overrides, *changed])


def _show(evaluations: "Evaluations") -> None:
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        write_out(f"{evaluations.text}\n")
        return
    with console.capture() as captured:
        console.print(evaluations.sheet)
    write_out(captured.get())


def _count(text: str) -> int:
    if not re.fullmatch(r"[1-9]\d{0,8}", text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no number of tasks or attempts; write 1, 2 …"
        )
    return int(text)
