"""`astuner sft`: learn known good replies, without a rollout."""

import argparse
from pathlib import Path

SUMMARY = "train on known good replies: conversations, traces, reference answers"
EXAMPLE = "astuner sft --conf math_agent/math_agent.yaml"

_EPILOG = """\
what is learned (trainer_common.warm_start of the YAML, or as key=value here):
  from: tasks              the reference answers of the training tasks, from their metadata
  from: traces             tasks made of traces (task_reader.type: tracing) with a known good answer
  from: traces, path: X    a file or folder of JSON lines {"messages": [...], "tools": [...]}, as
                           for OpenAI's fine-tuning; all that the assistant says is learned, save
                           for messages with "weight": 0

examples:
  astuner sft --conf shop_agent.yaml
                           as the YAML says
  astuner sft --conf shop_agent.yaml astuner.trainer_common.warm_start.from=traces \\
      astuner.trainer_common.warm_start.path=good_chats.jsonl
  astuner sft --conf shop_agent.yaml astuner.model.lora.rank=16 \\
      astuner.trainer_common.warm_start.lr=1e-4
                           an adapter; the same as a YAML of verl or Trinity, whose model.path the
                           checkpoint then is

It is what a run with trainer_common.warm_start does before its first rollout, on this machine, and
writes checkpoints/warm_start in a run directory of its own, which evaluate, export and serve take.
A conversation whose replies the chat template would not give back as they are is refused by name.
Of a start that was ended nothing is kept.

Exit codes: 0 done; 1 it failed; 2 wrong usage or settings, or nothing to learn from; 130 Ctrl-C,
143 SIGTERM.
"""


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="astuner sft",
        description="Supervised training of the model of a YAML on assistant turns that are known "
        "to be good, in the very tokens that a rollout of the same conversation has.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--conf", type=Path, required=True, metavar="FILE", help="your YAML file")
    parser.add_argument(
        "--exp-dir", metavar="DIR", help="folder of the run directories (default: launcher_record)"
    )
    parser.add_argument(
        "--with-logview", action="store_true", help="show the run in a browser while it is at work"
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="change a setting, as in astuner.trainer_common.warm_start.epochs=2",
    )
    return parser


def run(parsed: argparse.Namespace) -> int:
    from astuner.config.load import load_config
    from astuner.config.source import text_override
    from astuner.launch import launch_warm_start
    from astuner.log import tell_in_json

    overrides = list(parsed.overrides)
    if parsed.exp_dir is not None:
        overrides.append(text_override("astuner.experiment_dir", parsed.exp_dir))
    loaded = load_config(parsed.conf, overrides, backbone="local")
    tell_in_json(loaded.settings.log.format == "json")
    return launch_warm_start(loaded, with_logview=parsed.with_logview).exit_code
