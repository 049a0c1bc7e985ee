"""`astuner generate`: make tasks out of documents and a few examples."""

import argparse
import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from astuner.cli.output import write_out
from astuner.errors import ConfigError

if TYPE_CHECKING:
    from astuner.config.load import LoadedConfig
    from astuner.console import RunConsole
    from astuner.logview.terminal.sheet import Sheet

SUMMARY = "make tasks out of documents and a few examples: checked, with answers and evidence"
EXAMPLE = "astuner generate --conf my_agent/my_agent.yaml --preview 5"

_EPILOG = """\
what the YAML says, at least:
  astuner:
    task_reader:
      type: data_generation
      data_generation:
        document_reader:
          document_path: [docs]       files, folders, or patterns such as docs/**/*.md
        task_num: 200
    llm:
      base_url: http://127.0.0.1:8000/v1
      model: Qwen/Qwen3-30B-A3B-Instruct-2507

examples:
  astuner generate --conf my_agent.yaml --preview 5
                                             five drafts, with what each gate says of them
  astuner generate --conf my_agent.yaml      make the tasks, or go on with them
  astuner --conf my_agent.yaml               tune on them; makes those that are missing
  astuner generate --conf my_agent.yaml astuner.task_reader.data_generation.task_num=500
                                             more of them; those that are there stay
  astuner generate --conf my_agent.yaml --push my_tasks
                                             and as a folder that `datasets` reads

The tasks lie in generated_tasks/{name of the YAML}: train.jsonl, and validation.jsonl from other
documents; rejected.jsonl with the reason for every other draft; README.md and card.json about how
they were made.

Every answer is on disk as it comes, so no start pays for what an earlier one paid, previews too.
Where documents or settings changed, what changed is said, the set is made anew and the earlier one
is kept beside it in earlier/.

--push OWNER/NAME goes to the hub; anything else, such as ./NAME, is a folder.

Ctrl-C once ends it in order: what was made so far is a set, and the same command goes on with it.
Exit codes: 0 there are tasks, though perhaps fewer than wanted, which is said; 1 there are none, no
draft of a preview was answered, or something ended it; 2 wrong usage or settings; 130 Ctrl-C,
143 SIGTERM.
"""


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="astuner generate",
        description="Make tasks out of documents and a few examples: questions with answers and "
        "evidence, each one checked by gates before it counts.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--conf", type=Path, required=True, metavar="FILE", help="your YAML file")
    parser.add_argument(
        "--preview",
        type=_count,
        metavar="N",
        help="make the first N drafts only and show each with the reasons of the gates, and what "
        "the whole would cost",
    )
    parser.add_argument(
        "--push",
        metavar="NAME_OR_FOLDER",
        help="afterwards, write both splits as a `datasets` folder, or to the hub",
    )
    parser.add_argument("--json", action="store_true", help="what came of it, as JSON")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="change a setting, as in astuner.task_reader.data_generation.task_num=500",
    )
    return parser


def run(parsed: argparse.Namespace) -> int:
    from astuner import log
    from astuner.config.load import load_for_generation
    from astuner.console import RunConsole, open_screen
    from astuner.generating.push import check_target

    if parsed.preview and parsed.push:
        raise ConfigError("generate: --preview makes no set that --push could take; name one")
    if parsed.push:
        check_target(parsed.push)
    loaded = load_for_generation(parsed.conf, parsed.overrides)
    screen = open_screen()
    with log.install(None, "WARNING", console=screen), RunConsole(screen, is_live=True) as shown:
        return _preview(loaded, parsed, shown) if parsed.preview else _make(loaded, parsed, shown)


def _preview(loaded: "LoadedConfig", parsed: argparse.Namespace, console: "RunConsole") -> int:
    from astuner.generating.make import preview_sets
    from astuner.generating.preview_sheet import preview_sheet

    seen = preview_sets(loaded, console, num_drafts=parsed.preview)
    if parsed.json:
        _write_json([asdict(preview) for preview in seen.previews])
    else:
        _write_sheets([preview_sheet(preview) for preview in seen.previews])
    if seen.ended_by is not None:
        raise seen.ended_by
    return 1 if any(preview.is_unanswered for preview in seen.previews) else 0


def _make(loaded: "LoadedConfig", parsed: argparse.Namespace, console: "RunConsole") -> int:
    from astuner.generating.make import make_sets
    from astuner.generating.push import push_set
    from astuner.generating.report import outcome_sheet

    made = make_sets(loaded, console)
    if parsed.json:
        _write_json([asdict(one.outcome) for one in made.sets])
    else:
        _write_sheets([outcome_sheet(one.outcome, one.unread) for one in made.sets])
    if made.ended_by is not None:
        raise made.ended_by
    if parsed.push:
        folders = [one.outcome.folder for one in made.sets if one.num_tasks]
        _check_is_one(folders)
        console.say(f"pushed to {push_set(folders[0], parsed.push)}")
    return 0 if all(one.num_tasks for one in made.sets) else 1


def _check_is_one(folders: Sequence[Path]) -> None:
    if len(folders) != 1:
        raise ConfigError(
            f"--push takes one set, and {len(folders)} were made: "
            f"{', '.join(map(str, folders)) or 'none has a task'}"
        )


def _write_sheets(sheets: "Sequence[Sheet]") -> None:
    from rich.console import Console

    console = Console(highlight=False)
    for sheet in sheets:
        if not console.is_terminal:
            write_out(f"{sheet.plain}\n")
            continue
        with console.capture() as captured:
            console.print(sheet)
        write_out(captured.get())


def _write_json(found: Any) -> None:
    text = json.dumps(found, allow_nan=False, default=str).replace("\x7f", "\\u007f")
    write_out(f"{text}\n")


def _count(text: str) -> int:
    if not re.fullmatch(r"[1-9]\d{0,5}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of drafts; write 1, 2 …")
    return int(text)
