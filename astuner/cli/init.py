"""`astuner init`: a folder to begin with, which runs at once."""

import argparse
import shlex
import textwrap
from pathlib import Path

from astuner.cli.output import write_out
from astuner.new_project.kinds import KINDS

SUMMARY = "make a project to begin with: agent, tasks, judge, YAML and a test"
EXAMPLE = "astuner init my_agent --from tools"

_EPILOG = """\
what it may begin from:
{kinds}

examples:
  astuner init my_agent
  astuner init my_agent --from langgraph --model Qwen/Qwen2.5-0.5B-Instruct
  cd my_agent && astuner --conf my_agent.yaml --backbone=debug

The model is what --model names, or else one that lies in models/ here or one folder up, or else a
small one of the hub. Nothing that exists is overwritten.
"""


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="astuner init",
        description="Make a folder with a workflow, tasks, a judge, a test and a YAML that runs at "
        "once, to put your own in place of each.",
        epilog=_EPILOG.format(
            kinds="\n".join(f"  {name:12} {kind.summary}" for name, kind in KINDS.items())
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", metavar="NAME", type=Path, help="the folder to make")
    parser.add_argument(
        "--from",
        dest="kind",
        choices=list(KINDS),
        default="math",
        help="what to begin from (default: math)",
    )
    parser.add_argument("--model", metavar="PATH", help="the model to tune: a folder or a hub name")
    return parser


def run(parsed: argparse.Namespace) -> int:
    from astuner.new_project.make import make_project

    made = make_project(parsed.name, kind=parsed.kind, model=parsed.model)
    missing = ""
    if made.missing:
        packages = " ".join(f"'{one}'" if "[" in one else one for one in made.install.split())
        missing = f"its workflow needs {', '.join(made.missing)}: pip install {packages}\n"
    write_out(
        f"made {made.folder}, which tunes {made.model}\n{missing}"
        + textwrap.dedent(f"""\
            cd {shlex.quote(str(made.folder))}
            astuner doctor --conf {made.conf_file}             is all of it as it should be?
            astuner --conf {made.conf_file} --backbone=debug   the first two tasks, no training
            astuner --conf {made.conf_file}                    tune
            """)
    )
    return 0
