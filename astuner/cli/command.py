"""What a command is: a module of this package with these names. Owns how they are found."""

import argparse
import importlib
import pkgutil
from pathlib import Path
from typing import Protocol, cast

_NO_COMMANDS = frozenset({"main", "command", "output", "until_signal"})

TUNE = "tune"
"""The command that is meant where none is named."""


class Command(Protocol):
    """A module `astuner.cli.NAME` behind `astuner NAME`. Importing it must stay light: `astuner
    --help` imports all of them."""

    SUMMARY: str
    """One line for `astuner --help`; begins with a verb and ends without a full stop."""
    EXAMPLE: str
    """The command line that most people want."""

    def make_parser(self) -> argparse.ArgumentParser:
        """What `astuner NAME --help` teaches."""
        ...

    def run(self, parsed: argparse.Namespace) -> int:
        """Do it, and return the exit code. Raises the errors of `astuner.errors`."""
        ...


def command_names() -> list[str]:
    """All commands; the one that needs no name first."""
    modules = pkgutil.iter_modules([str(Path(__file__).parent)])
    names = sorted(module.name for module in modules if module.name not in _NO_COMMANDS)
    return sorted(names, key=lambda name: name != TUNE)


def load_command(name: str) -> Command:
    return cast(Command, importlib.import_module(f"astuner.cli.{name}"))
