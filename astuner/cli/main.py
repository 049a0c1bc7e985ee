"""Finds the command, and is the one place where errors become messages and exit codes.

Exit codes: 0 done, 1 the run failed, 2 bad usage or configuration, 128 and its number where a
signal ended the run: 130 Ctrl-C, 143 SIGTERM, 129 SIGHUP.
"""

import argparse
import difflib
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence

from astuner import __version__
from astuner.backbone.interrupt import quit_by_signals
from astuner.cli.command import TUNE, command_names, load_command
from astuner.cli.output import write_out
from astuner.errors import AstunerError, BackboneError, ConfigError, exit_code_of
from astuner.imports import describe_shadow
from astuner.log import tell, tell_in_json

_BY_SIGNAL = 128
"""Exit codes above it are those of a signal."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    Without `arguments` it is the command of this process, which a further Ctrl-C ends at once.
    """
    tell_in_json(False)
    given = sys.argv[1:] if arguments is None else list(arguments)
    code = _guarded(lambda: _run(given))
    if arguments is None and code > _BY_SIGNAL:
        # Else a Ctrl-C in the exit handlers of libraries shows their tracebacks.
        signal.signal(signal.SIGINT, lambda *_: os._exit(code))
    return code


def _run(arguments: list[str]) -> int:
    first = arguments[0] if arguments else ""
    if first in ("-h", "--help"):
        write_out(f"{_help()}\n")
        return 0
    if first == "--version":
        write_out(f"astuner {__version__}\n")
        return 0
    name = TUNE
    if re.fullmatch(r"\w[\w-]*", first):  # an override has another sign, such as "="
        name, arguments = _checked(first), arguments[1:]
    command = load_command(name)
    parsed = _parse(command.make_parser(), arguments)
    try:
        return command.run(parsed)
    except SystemExit as error:
        # It would end this process without a word, perhaps with 0.
        raise BackboneError(
            f"user code ended the command by sys.exit({error.code!r}), as in a handler of the log; "
            "raise an error there instead"
        ) from error


def _parse(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> argparse.Namespace:
    """Flags may stand before, between and behind what has no flag."""
    try:
        return parser.parse_intermixed_args(arguments)
    except SystemExit:
        write_out("")  # and with it the help that the parser wrote
        raise


def _checked(name: str) -> str:
    names = command_names()
    if name in names:
        return name
    near = difflib.get_close_matches(name.lower(), names, n=1)
    hint = f"did you mean {near[0]}? The" if near else "the"
    raise ConfigError(
        f"there is no command {name!r}; {hint} commands are {', '.join(names)}; "
        "`astuner --help` tells about them"
    )


def _help() -> str:
    """That of tuning, which needs no name, and of every other command a line with an example."""
    lines = ["", "further commands; astuner COMMAND --help tells more:"]
    for name in command_names():
        if name != TUNE:
            command = load_command(name)
            lines += [f"  {name:10} {command.SUMMARY}", f"  {'':10} {command.EXAMPLE}"]
    return load_command(TUNE).make_parser().format_help() + "\n".join(lines)


def _guarded(work: Callable[[], int]) -> int:
    """The outermost boundary: every error becomes a message and an exit code."""
    try:
        with quit_by_signals():
            return work()
    except AstunerError as error:
        tell(f"astuner: {type(error).__name__}: {error}")
        return exit_code_of(error)
    except KeyboardInterrupt as error:
        code = exit_code_of(error)
        tell(f"astuner: ended by {signal.Signals(code - _BY_SIGNAL).name}")
        return code
    except Exception as error:  # noqa: BLE001  # the outermost boundary
        said = f"{type(error).__name__}: {error}{describe_shadow()}"
        tell(f"astuner: unexpected {said}", error=error)
        return exit_code_of(error)
