"""`astuner export`: a checkpoint as what other programs load, verified before it counts."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from astuner.cli.output import write_out

if TYPE_CHECKING:
    from astuner.exporting.export import Exported

SUMMARY = "write a checkpoint for transformers, vLLM or llama.cpp, verified by loading it there"
EXAMPLE = "astuner export launcher_record/math_agent/latest --to hf --out my_model"

_EPILOG = """\
formats:
  hf       a folder that transformers and vLLM load: weights, tokenizer, chat template, generation
           settings. Of an adapter, merged into its base
  merged   the same, of adapters only
  adapter  the adapter beside its base, for peft and `vllm serve BASE --enable-lora`
  gguf     one file for llama.cpp, in one of its types (--quantize)
  ollama   that file with its Modelfile

examples:
  astuner export launcher_record/math_agent/latest --to hf
                                             the best checkpoint of the newest run, else its last
  astuner export latest --to hf              the same of the newest run of all, by its name
  astuner export launcher_record/math_agent/latest/checkpoints/step_20 --to hf --out my_model
                                             a checkpoint of your own choice
  astuner export launcher_record/math_agent/latest/checkpoints/best --to adapter
                                             what a run with model.lora.rank trained
  astuner export .../checkpoints/step_20 --to adapter --base Qwen/Qwen2.5-7B-Instruct
                                             with the name under which others find its base
  astuner export .../checkpoints/step_20 --to hf --dtype bfloat16
                                             half as large; says how far rounding takes it
  astuner export .../checkpoints/step_20 --to gguf --quantize Q8_0

What is written is loaded again in the program that it is for, and has to do what the trained
model does: the same prompts by its chat template, the same most likely tokens, log-probabilities
that differ by rounding only, and others than those of the base. Else nothing of it is kept, and the
first place where the two part is named. README.md in it is its model card, export.json has the
figures.

Memory: one copy of the model at a time. Exit codes: 0 done, 1 refused or failed, 2 wrong usage,
130 Ctrl-C, 143 SIGTERM; then nothing is left behind.
"""


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="astuner export",
        description="Write a checkpoint in a form that other programs load, and prove that it does "
        "there what it did in training.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "checkpoint",
        metavar="CHECKPOINT",
        help="a folder such as checkpoints/step_20 or checkpoints/best, a run directory for its "
        "best or last one, a run as `astuner show` names it, or a model folder",
    )
    parser.add_argument(
        "--to",
        required=True,
        choices=("hf", "merged", "adapter", "gguf", "ollama"),
        help="the format; see below",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="where it goes; must not exist (default: RUN-STEP-FORMAT in this folder)",
    )
    parser.add_argument(
        "--dtype",
        metavar="TYPE",
        help="of the weights: float32, bfloat16 or float16 (default: that of the checkpoint)",
    )
    parser.add_argument("--quantize", metavar="TYPE", help="of gguf and ollama, such as Q4_K_M")
    parser.add_argument(
        "--base",
        metavar="MODEL",
        help="folder or hub name of the model that was tuned, where the one that the run names is "
        "gone or is to be called otherwise",
    )
    parser.add_argument(
        "--conf",
        type=Path,
        metavar="FILE",
        help="your YAML file, for a model folder whose run is not known: its chat_template_kwargs, "
        "sampling, data and judge",
    )
    parser.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="where the model computes its probes (default: a GPU if there is one)",
    )
    parser.add_argument(
        "--allow-unchanged",
        action="store_true",
        help="also a checkpoint that computes the same as its base",
    )
    parser.add_argument("--json", action="store_true", help="what was written and found, as JSON")
    parser.add_argument(
        "--exp-dir",
        type=Path,
        default=Path("launcher_record"),
        metavar="DIR",
        help="folder of the runs (default: launcher_record)",
    )
    return parser


def run(parsed: argparse.Namespace) -> int:
    from astuner import log
    from astuner.console import RunConsole, open_screen
    from astuner.exporting.export import ExportOrder, as_json, export

    order = ExportOrder(
        checkpoint=parsed.checkpoint,
        to=parsed.to,
        out=parsed.out,
        dtype=parsed.dtype,
        quantize=parsed.quantize,
        base=parsed.base,
        device=parsed.device,
        exp_dir=parsed.exp_dir,
        settings=None if parsed.conf is None else _settings(parsed.conf),
        allow_unchanged=parsed.allow_unchanged,
    )
    screen = open_screen()
    with (
        log.install(None, "WARNING", console=screen),
        RunConsole(screen, is_live=True) as shown,
    ):
        exported = export(order, shown)
    if parsed.json:
        write_out(f"{json.dumps(as_json(exported), indent=1)}\n")
    else:
        write_out(_told(exported))
    return 0


def _settings(conf_file: Path) -> dict[str, Any]:
    from astuner.config.load import load_config
    from astuner.config.secret import shown_settings

    loaded = load_config(conf_file)
    return shown_settings(loaded.settings, loaded.shown_as)


def _told(exported: "Exported") -> str:
    from astuner.console import data_size, duration

    found, change = exported.agreement, exported.change
    lines = [
        f"exported       {exported.folder}",
        f"size           {data_size(exported.num_bytes)}, in {duration(exported.seconds)}, at most "
        f"{data_size(exported.peak_bytes)} of memory",
        f"loaded in      {found.runtime}",
        f"greedy tokens  {found.num_equal_tokens} of {found.num_tokens} equal, on "
        f"{found.num_probes} conversations"
        + (f"; {found.num_ties} part at a tie" if found.num_ties else ""),
        f"log-probs      {found.mean_gap:.2g} nats a token apart, {found.max_gap:.2g} at most",
    ]
    if found.perplexity_ratio is not None:
        lines.append(f"perplexity     {found.perplexity_ratio:.3f} times that of what was trained")
    if change is not None:
        lines.append(
            f"from the base  {change.mean_gap:.2g} nats a token, "
            f"{change.num_tokens - change.num_equal_tokens} other tokens"
        )
    if (recorded := exported.recorded) is not None:
        lines.append(
            f"from the run   {recorded.mean:.2g} nats a token, on {recorded.num_tokens} tokens "
            "that it sampled"
        )
    lines += [f"warning        {warning}" for warning in exported.warnings]
    lines.append(f"how to use it  {exported.folder / 'README.md'}")
    return "\n".join(lines) + "\n"
