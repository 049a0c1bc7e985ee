"""`astuner compare`: whether one model is better than another on the same tasks."""

import argparse
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

from astuner.cli.output import write_out
from astuner.errors import ConfigError
from astuner.imports import module_folders

if TYPE_CHECKING:
    from astuner.evaluation.comparison import ModelComparison
    from astuner.evaluation.gate import GateResult
    from astuner.logview.terminal.sheet import Sheet

SUMMARY = "is one model better than another on the same tasks, and may it be released"
EXAMPLE = "astuner compare math_agent/2026-01-31_09-30-00 math_agent/2026-01-31_09-41-12"

_NOT_PASSED = 3

_EPILOG = """\
examples:
  astuner compare BASE TUNED                 two evaluations by `astuner evaluate`
  astuner compare BASE TUNED --by source     also for each source, or a field of the tasks' metadata
  astuner compare RUN                        first and last validation of a training run
  astuner compare RUN@first RUN@step_20      two of its validations; also @last and @best
  astuner compare BASE TUNED --gate --conf my_agent.yaml --junit gate.xml
                                             is what evaluation.gate asks for reached?

BASE, TUNED and RUN are run directories, or names as `astuner show` takes them.

Tasks are paired, so what counts is the difference at each of them. Its 95% interval and the test
take tasks as what was drawn by chance, not attempts. "Better" and "worse" are said where interval
and test both show it; else the report says how large a difference so many tasks could have shown.
Failed episodes are left out and counted apart.

Refused are evaluations of different tasks, judges, workflows or settings; the message names what
differs. --common compares the tasks that both have, also of evaluations that are not finished.

A gate's rule is passed where the whole interval keeps to its limit. Where that cannot be decided,
as with too few tasks, the rule is not passed and says so. Guard tasks (evaluation.gate.guard) are
looked for beside each evaluation: `astuner evaluate --split FILE` with the same models makes them.
Exit codes: 0 done, and the gate passed; 1 something could not be read; 2 wrong usage or settings,
or not to be compared; 3 the gate is not passed.
"""


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="astuner compare",
        description="Compare two evaluations, or two validations of a training run, task by task: "
        "the difference with an interval and a test, what it could have shown, and the tasks that "
        "were won and lost.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN[@WHICH]",
        help="the baseline, and what is compared with it; or a training run alone",
    )
    parser.add_argument(
        "--by",
        metavar="FIELD",
        help="also for each value of this field: source, or one of the tasks' metadata",
    )
    parser.add_argument(
        "--common", action="store_true", help="compare only the tasks that both have"
    )
    parser.add_argument(
        "--limit",
        type=_amount,
        default=5,
        metavar="N",
        help="list so many won and so many lost tasks (default: 5)",
    )
    parser.add_argument("--json", action="store_true", help="all that was found, as JSON")
    parser.add_argument(
        "--exp-dir",
        type=Path,
        default=Path("launcher_record"),
        metavar="DIR",
        help="folder of the runs (default: launcher_record)",
    )
    gate = parser.add_argument_group("gate")
    gate.add_argument(
        "--gate",
        action="store_true",
        help="hold it against evaluation.gate, as saved with what is compared",
    )
    gate.add_argument(
        "--conf", type=Path, metavar="FILE", help="YAML whose evaluation.gate counts instead"
    )
    gate.add_argument("--junit", type=Path, metavar="FILE", help="write the rules as JUnit's XML")
    gate.add_argument("--gate-json", type=Path, metavar="FILE", help="write them as JSON")
    return parser


def run(parsed: argparse.Namespace) -> int:
    from astuner.evaluating.compared import find_sides
    from astuner.evaluation.comparison import compare

    _check_usage(parsed)
    a, b = find_sides(parsed.runs, parsed.exp_dir)
    found = compare(a.read(), b.read(), by=parsed.by, common_only=parsed.common)
    result = _gate_result(found, parsed)
    _show(found, result, parsed)
    return 0 if result is None or result.is_passed else _NOT_PASSED


def _check_usage(parsed: argparse.Namespace) -> None:
    if len(parsed.runs) > 2:
        raise ConfigError(
            f"compare: two can be compared, and {len(parsed.runs)} are named: "
            f"{', '.join(parsed.runs)}; name the baseline and one other"
        )
    if not parsed.gate and (parsed.junit or parsed.gate_json or parsed.conf):
        raise ConfigError("compare: --conf, --junit and --gate-json belong to --gate; add it")


def _gate_result(found: "ModelComparison", parsed: argparse.Namespace) -> "GateResult | None":
    if not parsed.gate:
        return None
    from astuner.evaluating.compared import held_against, saved_gate_rules
    from astuner.evaluation.gate_files import write_gate_json, write_junit

    rules = saved_gate_rules(Path(found.b.run_dir), parsed.conf)
    search_dirs = () if parsed.conf is None else module_folders(parsed.conf)
    result = held_against(found, rules, search_dirs)
    if parsed.gate_json is not None:
        write_gate_json(parsed.gate_json, found, result)
    if parsed.junit is not None:
        write_junit(parsed.junit, found, result)
    return result


def _show(
    found: "ModelComparison", result: "GateResult | None", parsed: argparse.Namespace
) -> None:
    from astuner.evaluating.comparison_sheet import comparison_sheet, gate_sheet
    from astuner.evaluation.comparison import comparison_record
    from astuner.evaluation.gate_files import gate_record

    if parsed.json:
        gate = None if result is None else gate_record(found, result)
        text = json.dumps({**comparison_record(found), "gate": gate}, allow_nan=False)
        escaped = text.replace("\x7f", "\\u007f")
        write_out(f"{escaped}\n")
        return
    folder = Path(found.b.run_dir).absolute().parent.parent
    sheet = comparison_sheet(found, num_shown=parsed.limit, folder=folder)
    if result is not None:
        sheet.space()
        sheet.put(gate_sheet(result))
    _write(sheet)


def _write(sheet: "Sheet") -> None:
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        write_out(f"{sheet.plain}\n")
        return
    with console.capture() as captured:
        console.print(sheet)
    write_out(captured.get())


def _amount(text: str) -> int:
    if not re.fullmatch(r"\d{1,9}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of tasks; write 0, 1, 2 …")
    return int(text)
