"""What a sandbox costs: the start of one command, and commands a second, for each kind.

    python benchmarks/sandbox_cost.py [--seconds 5]

The first run of a kind in a process, which finds out whether the system permits it, is timed apart.
`true` is the sandbox alone; Python without its packages adds the start of an interpreter, and plain
Python that of the virtual environment this runs in. A bare process is what the same costs without.
"""

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import time

from astuner.config.load import packaged_section
from astuner.config.sections.sandbox import SandboxSettings
from astuner.sandbox import Sandbox, open_sandbox
from astuner.sandbox.kinds import try_kind

COMMANDS = {
    "true": ["true"],
    "python -I -S": [sys.executable, "-I", "-S", "-c", "print(1)"],
    "python": [sys.executable, "-c", "print(1)"],
}
PARALLEL = (1, 8)


async def calls_per_second(sandbox: Sandbox, command: list[str], num: int, seconds: float) -> str:
    """Median and 99th percentile of one call in milliseconds, and calls a second."""
    took: list[float] = []
    begun = time.monotonic()

    async def caller() -> None:
        while time.monotonic() - begun < seconds:
            before = time.monotonic()
            result = await sandbox.run(command)
            assert result.exit_code == 0, result
            took.append(time.monotonic() - before)

    await asyncio.gather(*(caller() for _ in range(num)))
    rate = len(took) / (time.monotonic() - begun)
    p99 = statistics.quantiles(took, n=100)[98]
    return f"{statistics.median(took) * 1000:.0f} | {p99 * 1000:.0f} | {rate:.0f}"


def bare(command: list[str], seconds: float) -> str:
    took = []
    begun = time.monotonic()
    while time.monotonic() - begun < seconds:
        before = time.monotonic()
        subprocess.run(command, check=True, capture_output=True)
        took.append(time.monotonic() - before)
    p99 = statistics.quantiles(took, n=100)[98]
    rate = len(took) / (time.monotonic() - begun)
    return f"{statistics.median(took) * 1000:.0f} | {p99 * 1000:.0f} | {rate:.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=5.0, help="of each line of the table")
    seconds = parser.parse_args().seconds
    print("| kind | command | at once | ms | p99 ms | a second |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, command in COMMANDS.items():
        print(f"| bare process | `{name}` | 1 | {bare(command, seconds)} |", flush=True)
    first = {}
    for kind in ("bubblewrap", "landlock", "none"):
        begun = time.monotonic()
        tried = try_kind(kind, os.environ["PATH"])
        first[kind] = time.monotonic() - begun
        if tried.confinement is None:
            print(f"| {kind} | not permitted here: {tried.reason} | | | | |")
            continue
        section = packaged_section("sandbox") | {"kind": kind, "require": kind}
        sandbox = open_sandbox(SandboxSettings.model_validate(section))
        for name, command in COMMANDS.items():
            for num in PARALLEL:
                row = asyncio.run(calls_per_second(sandbox, command, num, seconds))
                print(f"| {kind} | `{name}` | {num} | {row} |", flush=True)
    tries = ", ".join(f"{kind} {seconds * 1000:.0f}" for kind, seconds in first.items())
    print(f"\nFirst of a process, in ms: {tries}.")


if __name__ == "__main__":
    main()
