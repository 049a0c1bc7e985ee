"""Writes task folders in Harbor's format."""

from collections.abc import Mapping
from pathlib import Path

COUNTS = """#!/bin/sh
if [ "$(cat answer.txt)" = 5 ]; then echo 1 > /logs/verifier/reward.txt
else echo 0.25 > /logs/verifier/reward.txt; fi
"""


WHOLE = {
    "task.toml": "[verifier]\ntimeout_sec = 10.0\n",
    "instruction.md": "Write the sum of 2 and 3 into answer.txt.",
    "environment/Dockerfile": "FROM ubuntu:24.04\nWORKDIR /app\n",
    "tests/test.sh": COUNTS,
    "solution/solve.sh": "echo 5 > answer.txt",
}


def write_task(folder: Path, files: Mapping[str, str | None] | None = None) -> Path:
    """A task that is whole, with these files in place of its own; None leaves one out."""
    for name, text in {**WHOLE, **(files or {})}.items():
        if text is not None:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    return folder
