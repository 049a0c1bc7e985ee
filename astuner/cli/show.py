"""`astuner show`: runs, the steps of one, its episodes, and what was said in one of them."""

import argparse
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from astuner.cli.output import write_out
from astuner.errors import ConfigError, UnreadableError

if TYPE_CHECKING:
    from astuner.logview.reading.row import EpisodeRow
    from astuner.logview.reading.run_reader import RunReader
    from astuner.logview.terminal.sheet import Sheet

SUMMARY = "show runs, the steps of one, and what was said in an episode"
EXAMPLE = "astuner show latest --step 12"

_EPILOG = """\
examples:
  astuner show                               all runs in launcher_record, the newest first
  astuner show latest                        the newest one: a line for each step, its validations,
                                             and what was found at which step
  astuner show math_agent/latest             the newest of that name; a run's start, or a folder,
                                             names one too
  astuner show latest --step 12              its episodes of step 12, task by task
  astuner show latest --step 10 --validation
                                             those of the validation behind step 10
  astuner show latest --failed               all that failed, with the reason
  astuner show latest --task 7               all attempts at one task, in every step
  astuner show latest step12-7-0             one episode: what was said, and why it got its reward
  astuner show latest step12-7-0 --tokens    and each token: given, trained, how improbable
  astuner show latest step12-7-0 --json | jq .verdict
                                             the record, one JSON object on a line

The beginning of an id is enough where no other begins so. Nothing is ever written into a run. What
a model said is printed with its control characters written out, as in \\x1b. Colours are left out
where the output is no terminal, and where NO_COLOR is set.
"""


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="astuner show",
        description="Show what runs wrote, while they go on or later. Without RUN it lists the "
        "runs, without EPISODE the steps of a run.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "run",
        nargs="?",
        metavar="RUN",
        help="a run by its name or its start, all runs of a YAML by its name, a folder, or "
        "`latest`",
    )
    parser.add_argument("episode", nargs="?", metavar="EPISODE", help="its id, or how it begins")
    which = parser.add_argument_group("which episodes to list")
    which.add_argument("--step", type=int, metavar="N", help="those of this step")
    which.add_argument(
        "--validation", action="store_true", help="of validations rather than of training"
    )
    which.add_argument("--task", metavar="ID", help="the attempts at this task")
    which.add_argument("--failed", action="store_true", help="those that have no reward")
    how = parser.add_argument_group("how")
    how.add_argument(
        "--tokens", action="store_true", help="with EPISODE: each token, and what was trained"
    )
    how.add_argument(
        "--json",
        action="store_true",
        help="one JSON object on a line: the records of episodes, the metrics of the steps of a "
        "run, or the runs",
    )
    how.add_argument(
        "--exp-dir",
        type=Path,
        default=Path("launcher_record"),
        metavar="DIR",
        help="folder of the runs (default: launcher_record)",
    )
    return parser


def run(parsed: argparse.Namespace) -> int:
    from astuner.logview.terminal.choose import choose_runs

    is_list = parsed.step is not None or parsed.validation or parsed.task or parsed.failed
    if is_list and parsed.episode:
        raise ConfigError(
            f"show: EPISODE {parsed.episode!r} and a list of episodes were both asked for; leave "
            "out --step, --validation, --task and --failed, or the EPISODE"
        )
    if parsed.tokens and not parsed.episode:
        raise ConfigError("show: --tokens shows those of one episode; found none, name EPISODE")
    runs = choose_runs(parsed.run, parsed.exp_dir)
    try:
        if parsed.run is None and not is_list:
            _show_runs(runs, parsed)
        elif parsed.episode:
            _show_episode(_one(runs, parsed), parsed)
        elif is_list:
            _show_episodes(_one(runs, parsed), parsed)
        elif len(runs) == 1:
            _show_steps(runs[0], parsed)
        else:
            _show_runs(runs, parsed)
    finally:
        for found in runs:
            found.index.close()
    return 0


def _one(runs: list["RunReader"], parsed: argparse.Namespace) -> "RunReader":
    if len(runs) == 1:
        return runs[0]
    asked = "no RUN is named" if parsed.run is None else f"RUN {parsed.run!r} names several runs"
    some = ", ".join(found.name for found in runs[:5])
    raise ConfigError(
        f"show: {asked}, and episodes are those of one; found {len(runs)}: {some}"
        f"{', …' if len(runs) > 5 else ''}. Name one of them, or `latest`"
    )


def _show_runs(runs: list["RunReader"], parsed: argparse.Namespace) -> None:
    from dataclasses import asdict

    from astuner.logview.terminal.runs import runs_sheet

    if parsed.json:
        _print_json({"run": found.name, **asdict(found.state())} for found in runs)
    else:
        _print(runs_sheet(runs))


def _show_steps(found: "RunReader", parsed: argparse.Namespace) -> None:
    from astuner.logview.terminal.steps import run_sheet

    if parsed.json:
        _print_json(found.metrics().rows)
    else:
        _print(run_sheet(found))


def _show_episodes(found: "RunReader", parsed: argparse.Namespace) -> None:
    from astuner.logview.reading.query import EpisodeQuery
    from astuner.logview.terminal.choose import episodes_of
    from astuner.logview.terminal.episodes import episodes_sheet

    query = EpisodeQuery(
        step=parsed.step,
        is_validation=_kind_asked(parsed),
        task_id=parsed.task,
        outcome="failed" if parsed.failed else None,
    )
    rows = episodes_of(found, query)
    if parsed.json:
        _print_records(found, rows)
        return
    kind = "validation at step" if parsed.validation else "step"
    at = "" if parsed.step is None else f"{kind} {parsed.step} of "
    noun = "failed episode" if parsed.failed else "episode"
    _print(episodes_sheet(rows, of=f"{at}{found.name}", noun=noun))


def _kind_asked(parsed: argparse.Namespace) -> bool | None:
    """Both kinds where neither a step nor validations are asked for."""
    return True if parsed.validation else None if parsed.step is None else False


def _show_episode(found: "RunReader", parsed: argparse.Namespace) -> None:
    from astuner.logview.episode_parts import read_sequences
    from astuner.logview.terminal.choose import choose_episode
    from astuner.logview.terminal.episode import episode_sheet
    from astuner.logview.terminal.tokens import tokens_sheet

    stored = found.index.read(choose_episode(found, parsed.episode))
    if parsed.json:
        _print_json([stored.record])
        return
    tokens = None
    if parsed.tokens:
        tokens = tokens_sheet(read_sequences(found, stored), found.vocabulary())
    _print(episode_sheet(stored.episode, tokens=tokens))


def _print(sheet: "Sheet") -> None:
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        write_out(f"{sheet.plain}\n")
        return
    with console.capture() as captured:
        console.print(sheet)
    write_out(captured.get())


def _print_records(found: "RunReader", rows: list["EpisodeRow"]) -> None:
    """All that can be read; then raises UnreadableError where some could not."""
    lost: list[UnreadableError] = []

    def records() -> Iterator[Any]:
        for row in rows:
            try:
                yield found.index.read(row).record
            except UnreadableError as error:
                lost.append(error)

    _print_json(records())
    if lost:
        raise UnreadableError(
            f"show: {len(lost)} of {len(rows)} records cannot be read and were left out; {lost[0]}"
        )


def _print_json(records: Iterable[Any]) -> None:
    """In ASCII without controls, so that no text of a model reaches the terminal as it is."""
    for record in records:
        text = json.dumps(record).replace("\x7f", "\\u007f")
        if not write_out(f"{text}\n"):
            return
