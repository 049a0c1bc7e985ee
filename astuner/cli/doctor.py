"""`astuner doctor`: is a configuration fit to be run for a night?"""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from astuner.cli.output import write_out
from astuner.errors import exit_code_of

if TYPE_CHECKING:
    from astuner.console import RunConsole
    from astuner.examining.finding import DoctorFinding

SUMMARY = "minutes before a night is spent: machine, data, judge, model, workflow, and how long"
EXAMPLE = "astuner doctor --conf my_agent/my_agent.yaml"

_SUBJECTS = ("machine", "data", "judge", "model", "workflow", "forecast")

_EPILOG = """\
examples:
  astuner doctor --conf my_agent.yaml        everything: loads the model, runs two episodes, makes
                                             one update, and throws it away
  astuner doctor --conf my_agent.yaml --quick
                                             what needs no weights: seconds
  astuner doctor --conf my_agent.yaml --only data,judge
                                             some of it
  astuner doctor --conf big.yaml --model Qwen/Qwen3-0.6B
                                             with a small model of the same family, on a laptop
  astuner doctor --conf my_agent.yaml --json astuner.model.lora.rank=16
                                             for a script, with another setting

what is looked at:
  machine    versions, pins, devices, disk, open files, sandbox, clock
  data       how many for how many steps, duplicates, validation inside training, empty answers,
             lengths, languages
  judge      a right answer is right, a wrong, an empty and a hostile one are not, the same twice,
             how long it takes
  model      history kept by the template, tool calls read back, end of turn trained, thoughts,
             context, adapter, memory; sampling and training agree; an update reaches the engine
  workflow   two episodes for real: failures, sequences, cut replies, the same from the same seed
  forecast   about how long a step and the run take, tokens, disk

Each line is fine, warning, wrong, or could not be checked, with the setting to change below it.
Nothing is written into the folder of your runs, and no weights are kept. Ctrl-C ends it with what
was found so far.
Exit codes: 0 nothing is wrong, 1 something is, 2 wrong usage or settings, 130 Ctrl-C.
"""


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="astuner doctor",
        description="Look at a configuration before a long run: what is wrong, what is doubtful, "
        "which setting to change, and about how long the run will take.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--conf", type=Path, required=True, metavar="FILE", help="your YAML file")
    parser.add_argument(
        "--only",
        type=_subjects,
        default=_SUBJECTS,
        metavar="SUBJECTS",
        help=f"some of {','.join(_SUBJECTS)}",
    )
    parser.add_argument(
        "--quick", action="store_true", help="load no weights and run no episode: seconds"
    )
    parser.add_argument(
        "--model",
        metavar="PATH",
        help="a folder or hub name in place of model.path, such as a small one of the family",
    )
    parser.add_argument(
        "--deadline",
        type=_seconds,
        default=300.0,
        metavar="SECONDS",
        help="how long each check may take (default: 300)",
    )
    parser.add_argument("--keep", action="store_true", help="keep the episodes, and say where")
    parser.add_argument("--json", action="store_true", help="all findings as JSON, at the end")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="change a setting, as in astuner.model.lora.rank=16",
    )
    return parser


def run(parsed: argparse.Namespace) -> int:
    from astuner import log
    from astuner.console import RunConsole, open_screen
    from astuner.examining.examination import examine
    from astuner.examining.order import ExaminationOrder
    from astuner.examining.sheet import as_json, summary_line

    order = ExaminationOrder(
        conf_file=parsed.conf,
        overrides=parsed.overrides,
        subjects=parsed.only,
        model=parsed.model,
        is_quick=parsed.quick,
        check_seconds=parsed.deadline,
        keeps_files=parsed.keep,
    )
    screen = open_screen()
    with log.install(None, "ERROR", console=screen), RunConsole(screen, is_live=True) as shown:

        def tell(finding: "DoctorFinding") -> None:
            if not parsed.json:
                _show(finding, shown)

        examined = examine(order, shown, tell=tell)
    code = 1 if examined.is_wrong else 0
    if examined.ended_by is not None:
        code = exit_code_of(examined.ended_by)
    if parsed.json:
        write_out(f"{json.dumps(as_json(examined, exit_code=code), allow_nan=False)}\n")
    else:
        write_out(f"\n{summary_line(examined)}\n")
    if examined.ended_by is not None:
        raise examined.ended_by
    return code


def _show(finding: "DoctorFinding", console: "RunConsole") -> None:
    """Above the progress on a terminal; elsewhere on standard output, which may be a pipe."""
    from astuner.examining.sheet import finding_sheet

    sheet = finding_sheet(finding)
    if sys.stdout.isatty():
        console.show(sheet, sheet.plain)
    else:
        write_out(f"{sheet.plain}\n")


def _subjects(text: str) -> tuple[str, ...]:
    named = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in named if name not in _SUBJECTS]
    if unknown or not named:
        raise argparse.ArgumentTypeError(
            f"{', '.join(unknown) or text!r} is none of {','.join(_SUBJECTS)}"
        )
    return tuple(named)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 1 <= seconds <= 86_400:
        raise argparse.ArgumentTypeError(f"{text!r}: write seconds from 1 to 86400")
    return seconds
