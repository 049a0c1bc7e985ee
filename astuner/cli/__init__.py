"""The command `astuner`: one file for each command, found by its name.

`main.py` finds it, and is the one place where errors become messages and exit codes. What a file of
a command has to offer says `command.py`.
"""

from astuner.cli.main import main

__all__ = ["main"]
