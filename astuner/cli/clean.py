"""`astuner clean`: show what runs take on the disk, and delete what is not needed any more."""

import argparse
import re
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from astuner.console import data_size
from astuner.errors import ConfigError

if TYPE_CHECKING:
    from astuner.cleaning.found_run import FoundRun
    from astuner.cleaning.prune import PruneChoice, Removal

SUMMARY = "show what runs take on the disk, and delete what is not needed any more"
EXAMPLE = "astuner clean --states --older-than 7d"

_SECONDS = {"h": 3600, "d": 24 * 3600, "w": 7 * 24 * 3600}

_EPILOG = """\
examples:
  astuner clean                              what every run in launcher_record takes; that is all
  astuner clean --states                     keeps all models, but no run goes on exactly any more
  astuner clean --checkpoints --episodes     keeps of each run the newest model, the best one and
                                             the metrics
  astuner clean --runs --older-than 30d --keep 3
                                             whole runs, but the three newest of each name stay
  astuner clean --runs launcher_record/math_agent/2026-01-31_09-30-00
                                             this one run
  astuner clean --states --dry-run           what it would delete
  astuner clean --states --yes               without asking, for scripts

It lists what goes and asks before it deletes. A run that is at work is never touched, and a
checkpoint that another run of the same folder began from (its model.path), or measures from (its
trainer_common.reference), is never deleted; that your own files name one cannot be known. The
newest run of each name stays as it is, and so does the newest one with a checkpoint, unless --keep
0 says otherwise or a run is named itself. What is deleted cannot be brought back.
"""


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="astuner clean",
        description="Show what runs take on the disk, by checkpoints, training states, episodes "
        "and the rest, and delete what you name. Without a part to delete it only shows.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "folder",
        nargs="?",
        type=Path,
        default=Path("launcher_record"),
        metavar="FOLDER",
        help="folder of all runs, of the runs of one YAML, or one run (default: launcher_record)",
    )
    parts = parser.add_argument_group("what to delete")
    parts.add_argument("--runs", action="store_true", help="whole runs")
    parts.add_argument(
        "--checkpoints",
        action="store_true",
        help="checkpoints other than the newest and the best by validation",
    )
    parts.add_argument(
        "--states",
        action="store_true",
        help="training states; the models stay, and going on from them begins the optimizer anew",
    )
    parts.add_argument(
        "--episodes",
        action="store_true",
        help="recorded episodes, what was trained of them, and what resuming put aside",
    )
    which = parser.add_argument_group("of which runs")
    which.add_argument(
        "--older-than",
        type=_seconds,
        metavar="AGE",
        help="only those of which nothing was written for so long: 12h, 30d or 8w",
    )
    which.add_argument(
        "--keep",
        type=_count,
        metavar="N",
        help="leave the N newest runs of each name as they are (default: 1, and 0 for a run that "
        "is named itself)",
    )
    how = parser.add_argument_group("how").add_mutually_exclusive_group()
    how.add_argument("--yes", action="store_true", help="delete without asking")
    how.add_argument(
        "--dry-run", action="store_true", help="list what would go, and delete nothing"
    )
    return parser


def run(parsed: argparse.Namespace) -> int:
    from astuner.cleaning.found_run import find_runs
    from astuner.cleaning.prune import kept_because, removals

    runs = find_runs(parsed.folder)
    choice = _choice(parsed, is_one_run=runs[0].run_dir.root == parsed.folder.resolve())
    reasons = {run.name: kept_because(run, runs, choice) for run in runs}
    if choice.is_empty:
        _show_runs(runs, {run.name: run.worker for run in runs})
        print("\nnothing is deleted: name --runs, --checkpoints, --states or --episodes")
        return 0
    _show_runs(runs, reasons)
    going = {r.name: list(removals(r, choice)) for r in runs if reasons[r.name] is None}
    listed = [removal for removals_of_run in going.values() for removal in removals_of_run]
    if not listed:
        print("\nnothing is to be deleted")
        return 0
    _show_removals(listed)
    if parsed.dry_run:
        print("nothing was deleted (--dry-run)")
        return 0
    if not parsed.yes and not _is_confirmed():
        print("nothing was deleted")
        return 0
    return _delete([run for run in runs if going.get(run.name)], going)


def _choice(parsed: argparse.Namespace, *, is_one_run: bool) -> "PruneChoice":
    from astuner.cleaning.prune import PruneChoice

    age = parsed.older_than
    keep = (0 if is_one_run else 1) if parsed.keep is None else parsed.keep
    return PruneChoice(
        runs=parsed.runs,
        checkpoints=parsed.checkpoints,
        states=parsed.states,
        episodes=parsed.episodes,
        written_before=None if age is None else time.time() - age,
        num_newest_kept=keep,
    )


def _delete(runs: Sequence["FoundRun"], going: dict[str, list["Removal"]]) -> int:
    from astuner.cleaning.prune import carry_out

    failures = [line for run in runs for line in carry_out(run, going[run.name])]
    for line in failures:
        print(line, file=sys.stderr)
    if not failures:
        print("deleted")
    return 1 if failures else 0


def _is_confirmed() -> bool:
    """Raises ConfigError where there is nobody to ask."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise ConfigError(
            "clean: nothing was deleted, since this is no terminal where it could ask; add --yes "
            "to delete what is listed, or --dry-run to list it only"
        )
    try:
        return input("delete this? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False


def _show_runs(runs: Sequence["FoundRun"], notes: dict[str, str | None]) -> None:
    columns = ("run", "last written", "checkpoints", "training states", "episodes", "rest", "")
    rows = [
        (
            run.name,
            datetime.fromtimestamp(run.last_written).strftime("%Y-%m-%d %H:%M"),
            data_size(run.checkpoints_bytes),
            data_size(run.states_bytes),
            data_size(run.episodes_bytes),
            data_size(run.rest_bytes),
            f"stays: {note}" if (note := notes[run.name]) else "",
        )
        for run in runs
    ]
    total = (
        "all",
        "",
        data_size(sum(run.checkpoints_bytes for run in runs)),
        data_size(sum(run.states_bytes for run in runs)),
        data_size(sum(run.episodes_bytes for run in runs)),
        data_size(sum(run.rest_bytes for run in runs)),
        "",
    )
    table = [columns, *rows, total]
    widths = [max(len(row[column]) for row in table) for column in range(len(columns))]
    for row in table:
        cells = [f"{row[0]:{widths[0]}}", f"{row[1]:{widths[1]}}"]
        cells += [f"{cell:>{width}}" for cell, width in zip(row[2:6], widths[2:6], strict=True)]
        print("  ".join((*cells, row[6])).rstrip())


def _show_removals(going: Sequence["Removal"]) -> None:
    print("\nto be deleted:")
    for removal in going:
        print(f"  {removal.run.name}: {removal.what}  {data_size(removal.num_bytes)}")
    print(f"{data_size(sum(removal.num_bytes for removal in going))} in all")


def _seconds(text: str) -> float:
    found = re.fullmatch(r"(\d+)([hdw])", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no age; write 12h, 30d or 8w")
    return int(found[1]) * _SECONDS[found[2]]


def _count(text: str) -> int:
    if not re.fullmatch(r"\d+", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of runs; write 0, 1, 2 …")
    return int(text)
