"""`astuner judge`: judge recorded episodes again, and see where judges differ."""

import argparse
import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from astuner.cli.output import write_out
from astuner.errors import ConfigError

if TYPE_CHECKING:
    from astuner.logview.reading.run_reader import RunReader
    from astuner.rejudging.findings import Rejudgement
    from astuner.rejudging.order import RejudgeOrder

SUMMARY = "judge recorded episodes again: where judges differ, and whether one can be gamed"
EXAMPLE = "astuner judge latest --judge 'my_agent/judge.py->MyJudge' --limit 100"

_OVERRIDE = re.compile(r"[+~]{0,2}[A-Za-z_][\w.]*=|~[A-Za-z_][\w.]*$")

_EPILOG = """\
examples:
  astuner judge latest --judge 'my_agent.judge->MyJudge'
                                             another judge's opinion of the newest run
  astuner judge latest --judge 'my_agent.judge->MyJudge' --limit 100
                                             of 100 episodes, spread over the steps
  astuner judge math_agent/latest --step 12 --judge 'my_agent.judge->A' --judge 'my_agent.judge->B'
                                             two judges, held against the run and each other
  astuner judge latest --validation --judge 'my_agent.judge->MyJudge' --labels labels.csv
                                             the run's judge and yours against people's labels
  astuner judge latest --judge 'my_agent.judge->Asking' --repeat 3 --limit 50
                                             does it say the same when it is asked again?
  astuner judge latest --judge 'my_agent.judge->Asking' --conf other.yaml astuner.llm.max_calls=500
                                             with other settings than the run had

Your judge is looked for from the current directory, and beside the file of --conf. Its settings are
those that the run saved; --conf and key=value change some of them. Secrets are saved by no run.

labels.csv has a line of names and a line for each episode; a file of JSON lines does as well:
  episode_id,is_success,score
  step12-7-0,true,0.9
score (or reward) or is_success (or label) is enough.

Hostile answers are tried too: an empty one, the question repeated, an instruction to the judge, and
others. One that gets more than the middle of what the judge gives is a warning. --no-probes leaves
them out.

Nothing is ever written into a run. A judge that fails at an episode is counted with its reason, and
is no reward of 0. Ctrl-C, or a used-up budget, ends it with what was judged so far.
Exit codes: 0 done, 1 nothing could be judged or something ended it, 2 wrong usage, 130 Ctrl-C.
"""


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="astuner judge",
        description="Judge recorded episodes again, from their records alone: how far judges agree "
        "on what is a success and which episode of a group is better, where they differ most, and "
        "what they cost.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "words",
        nargs="+",
        metavar="RUN | key=value",
        help="runs as `astuner show` names them: `latest`, NAME/latest, a start or a folder; and "
        "settings to change, as in astuner.llm.base_url=http://127.0.0.1:8000/v1",
    )
    parser.add_argument(
        "--judge",
        action="append",
        required=True,
        metavar="MODULE->NAME",
        help="class or function of a judge, as in task_judge.judge_protocol; may be repeated. "
        "Put it in quotes, or the shell writes into a file",
    )
    parser.add_argument(
        "--conf", type=Path, metavar="FILE", help="settings over those that the run saved"
    )
    which = parser.add_argument_group(
        "which episodes", "all, of training and of validations, where nothing says less"
    )
    which.add_argument("--step", type=int, metavar="N", help="those of the training in this step")
    which.add_argument(
        "--validation",
        action="store_true",
        help="those of validations; with --step, of the one behind it",
    )
    which.add_argument(
        "--limit",
        type=_count,
        metavar="N",
        help="at most so many, in groups that are spread over the steps; the same each time",
    )
    which.add_argument(
        "--labels", type=Path, metavar="FILE", help="only those with a label, to compare with it"
    )
    how = parser.add_argument_group("how")
    how.add_argument(
        "--repeat",
        type=_count,
        default=1,
        metavar="N",
        help="ask about each episode so often, without the cache (default: 1)",
    )
    how.add_argument("--no-probes", action="store_true", help="try no hostile answers")
    how.add_argument(
        "--json", action="store_true", help="all that was found, and every opinion, as JSON"
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
    from astuner import log
    from astuner.console import RunConsole, open_screen
    from astuner.logview.terminal.choose import choose_runs
    from astuner.rejudging.order import carry_out

    names = [word for word in parsed.words if not _is_override(word)]
    if not names:
        raise ConfigError("judge: no RUN is named, only settings; name one, such as latest")
    runs = {run.root: run for name in names for run in choose_runs(name, parsed.exp_dir)}
    screen = open_screen()
    try:
        with (
            log.install(None, "WARNING", console=screen),
            RunConsole(screen, is_live=True) as shown,
        ):
            outcome = carry_out(_order(parsed, list(runs.values())), shown)
    finally:
        for found in runs.values():
            found.index.close()
    if outcome.found.num_judged or outcome.ended_by is None:
        _show(outcome.found, parsed)
    if outcome.ended_by is not None:
        raise outcome.ended_by
    return 0 if outcome.found.num_judged else 1


def _order(parsed: argparse.Namespace, runs: list["RunReader"]) -> "RejudgeOrder":
    from astuner.logview.reading.query import EpisodeQuery
    from astuner.rejudging.order import RejudgeOrder

    is_any_kind = parsed.step is None and not parsed.validation
    return RejudgeOrder(
        runs=runs,
        judges=parsed.judge,
        conf_file=parsed.conf,
        overrides=[word for word in parsed.words if _is_override(word)],
        query=EpisodeQuery(
            step=parsed.step, is_validation=None if is_any_kind else parsed.validation
        ),
        limit=parsed.limit,
        labels_file=parsed.labels,
        num_times=parsed.repeat,
        with_probes=not parsed.no_probes,
    )


def _show(found: "Rejudgement", parsed: argparse.Namespace) -> None:
    from rich.console import Console

    from astuner.rejudging.report import report

    if parsed.json:
        text = json.dumps(asdict(found), allow_nan=False).replace("\x7f", "\\u007f")
        write_out(f"{text}\n")
        return
    sheet = report(found, folder=parsed.exp_dir)
    console = Console(highlight=False)
    if not console.is_terminal:
        write_out(f"{sheet.plain}\n")
        return
    with console.capture() as captured:
        console.print(sheet)
    write_out(captured.get())


def _is_override(word: str) -> bool:
    """A folder may be called like one, such as lr=1e-5."""
    return bool(_OVERRIDE.match(word)) and not Path(word).exists()


def _count(text: str) -> int:
    if not re.fullmatch(r"[1-9]\d{0,8}", text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no number of episodes or times; write 1, 2 …"
        )
    return int(text)
