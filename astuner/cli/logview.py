"""`astuner logview`: show what runs did, in a browser."""

import argparse
import asyncio
import re
import signal
from pathlib import Path
from typing import TYPE_CHECKING

from astuner import log
from astuner.cli.until_signal import awaited_signal
from astuner.errors import ConfigError, Quit

if TYPE_CHECKING:
    from astuner.logview.reading.shelf import Shelf
    from astuner.logview.web.entrance import Entrance

SUMMARY = "show what runs did in a browser: curves, tasks, episodes, tokens"
EXAMPLE = "astuner logview"

_RECORDS = Path("launcher_record")

_EPILOG = """\
examples:
  astuner logview                           all runs of launcher_record, also while they are at work
  astuner logview math_agent                the runs of one YAML, by its name
  astuner logview launcher_record/math_agent/latest
                                            one run; the link leads to it
  astuner logview /data/runs ../old/launcher_record
                                            the runs of several folders, to compare them
  astuner logview generated_tasks/math_agent
                                            a set of tasks that `astuner generate` made
  astuner logview --host 0.0.0.0            also for other machines, and out of a container

It prints a link and serves until Ctrl-C. It reads run directories and never writes into them; what
it has indexed lies in the cache folder. Over ssh it also prints the line to type on your own
machine, after which the link opens there. The link of another --host has a token in it, which
browsers keep as a cookie: whoever has the link reads all that is shown.
"""


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="astuner logview",
        description="Show in a browser what runs did: whether they got better, where the attempts\n"
        "at a task differ, what was said, judged and trained in an episode, token by token.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "runs",
        nargs="*",
        metavar="RUN",
        help="a run directory, the folder of a YAML's runs or its name, a generated set, or a "
        "folder of those (default: launcher_record and generated_tasks)",
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address of this machine to listen at (default: 127.0.0.1, which no other reaches)",
    )
    parser.add_argument(
        "--port",
        type=_port,
        help="port to listen at, 0 for any (default: 27886, or another that is free)",
    )
    parser.add_argument(
        "--allowed-host",
        action="append",
        default=[],
        metavar="NAME",
        help="another name by which browsers may call it, such as that of a proxy; may be repeated",
    )
    parser.add_argument(
        "--with-token",
        action="store_true",
        help="ask for a token also at 127.0.0.1: on a machine that you share, everybody reaches it",
    )
    return parser


def run(parsed: argparse.Namespace) -> int:
    from astuner.logview.reading.shelf import Shelf
    from astuner.logview.web.entrance import open_entrance
    from astuner.logview.web.serve import check_installed

    check_installed()
    shelf = Shelf([_folder(name) for name in parsed.runs or _usual_folders()])
    entrance = open_entrance(
        parsed.host,
        parsed.port,
        allowed_hosts=parsed.allowed_host,
        with_token=parsed.with_token,
    )
    with log.install(None, "WARNING"):
        _tell(entrance, _first_page(shelf))
        number = asyncio.run(_serve_until_signal(shelf, entrance))
    if number != signal.SIGINT:
        raise Quit(number)
    return 0  # Ctrl-C is how it is meant to end


async def _serve_until_signal(shelf: "Shelf", entrance: "Entrance") -> int:
    """Which one it was."""
    from astuner.logview.web.serve import serve

    signalled = awaited_signal()
    await serve(shelf, entrance, until=signalled)
    return signalled.result()


def _tell(entrance: "Entrance", path: str) -> None:
    from astuner.logview.web.entrance import ssh_line

    print(f"astuner logview: {entrance.link(path)}", flush=True)
    if line := ssh_line(entrance):
        print(f"from your own machine, first: {line}", flush=True)
    print("Ctrl-C ends it", flush=True)


def _first_page(shelf: "Shelf") -> str:
    """That of the run or the set where one was named."""
    from astuner.logview.web.addresses import HOME, run_at, set_at

    runs = [run_at(run.name) for run in shelf.runs() if (run.root,) == shelf.folders]
    sets = [set_at(found.name) for found in shelf.sets() if (found.root,) == shelf.folders]
    return next(iter((*runs, *sets)), HOME)


def _usual_folders() -> list[Path]:
    """Where runs and generated sets are, as far as either is there."""
    from astuner.config.generated_sets import USUAL_DIR

    return [folder for folder in (_RECORDS, Path(USUAL_DIR)) if folder.is_dir()] or [_RECORDS]


def _folder(name: str | Path) -> Path:
    """The runs that have this name in launcher_record, else the folder of this path: that of the
    YAML often has the same name."""
    stem = Path(name).stem if Path(name).suffix in (".yaml", ".yml") else name
    for folder in (_RECORDS / stem, Path(name)):
        if folder.is_dir():
            return folder
    known = sorted(p.name for p in _RECORDS.glob("[!.]*") if p.is_dir())
    found = f"launcher_record has {', '.join(known)}" if known else "nor is launcher_record here"
    raise ConfigError(
        f"astuner logview: {name}: there is no such folder in {Path.cwd()}, {found}; name a run "
        "directory or a folder of runs, as it was given by --exp-dir, or start the command where "
        "launcher_record lies"
    )


def _port(text: str) -> int:
    if not re.fullmatch(r"\d{1,5}", text) or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port; write 0 to 65535")
    return int(text)
