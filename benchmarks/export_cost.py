"""What an export costs in seconds and memory, against the script that people write for it."""

import argparse
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

DESCRIPTION = """\
Export checkpoints by `astuner export` and by the usual script, each in a process of its own.

    python -m benchmarks.export_cost launcher_record/full/latest launcher_record/lora/latest

  ours     load, probe, write, load again, compare, compare with the base, digests
  script   from_pretrained, with an adapter merge_and_unload, save_pretrained: nothing is compared

Of a run it is the best checkpoint. Formats are hf for a whole model; merged and adapter for an
adapter, whose script is a copy of two files and the tokenizer. Seconds are of the whole process;
the imports of torch and transformers, which both have, stand in a column of their own.
"""


def _script(checkpoint: Path, to: str, out: Path) -> dict[str, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    started = time.perf_counter()
    if to == "adapter":
        out.mkdir()
        for path in checkpoint.glob("adapter_*"):
            shutil.copy(path, out)
    elif to == "merged":
        from peft import PeftConfig, PeftModel

        base = PeftConfig.from_pretrained(str(checkpoint)).base_model_name_or_path
        model: Any = AutoModelForCausalLM.from_pretrained(str(base), dtype=torch.float32)
        PeftModel.from_pretrained(model, str(checkpoint)).merge_and_unload().save_pretrained(out)
    else:
        AutoModelForCausalLM.from_pretrained(checkpoint).save_pretrained(out)
    AutoTokenizer.from_pretrained(checkpoint).save_pretrained(out)
    return {"seconds": time.perf_counter() - started}


def _ours(checkpoint: Path, to: str, out: Path) -> dict[str, Any]:
    import torch  # noqa: F401  # both sides have imported before the clock runs
    import transformers  # noqa: F401

    from astuner.console import RunConsole, open_screen
    from astuner.exporting.export import ExportOrder, export

    started = time.perf_counter()
    order = ExportOrder(checkpoint=str(checkpoint), to=to, out=out, device="cpu")
    with RunConsole(open_screen(), is_live=False) as console:
        found = export(order, console)
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "mean_gap": found.agreement.mean_gap}


_SIDES = {"ours": _ours, "script": _script}


def measure(side: str, checkpoint: Path, to: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.export_cost", "--side", side, "--to", to]
        started = time.perf_counter()
        done = subprocess.run(
            [*command, "--out", f"{folder}/out", str(checkpoint)],
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    found = json.loads(done.stdout.splitlines()[-1])
    return found | {"whole": time.perf_counter() - started}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN_OR_CHECKPOINT")
    parser.add_argument("--side", choices=_SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--to", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        found = _SIDES[arguments.side](arguments.runs[0], arguments.to, arguments.out)
        peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(json.dumps(found | {"peak_gib": peak_kib / 2**20}))
        return
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, OMP_NUM_THREADS="
        f"{os.environ.get('OMP_NUM_THREADS', 'not set')}"
    )
    print("| checkpoint | to | side | seconds | with imports | peak GiB |")
    print("| --- | --- | --- | --- | --- | --- |")
    for run in arguments.runs:
        from astuner.exporting.checkpoint_named import find_checkpoint

        checkpoint = find_checkpoint(str(run), Path("launcher_record"))
        for to in ("merged", "adapter") if checkpoint.is_adapter else ("hf",):
            for side in _SIDES:
                found = measure(side, checkpoint.folder, to)
                print(
                    f"| {checkpoint.title} | {to} | {side} | {found['seconds']:.1f} "
                    f"| {found['whole']:.1f} | {found['peak_gib']:.2f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
