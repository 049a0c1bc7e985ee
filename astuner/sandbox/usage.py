"""What a tree of processes uses, read from /proc."""

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Usage:
    """Of all processes of a tree that live."""

    memory_bytes: int
    """Each counts what it shares with others as its own."""
    cpu_seconds: float
    """With that of children which ended and were waited for."""


def processes_below(pid: int) -> Iterator[int]:
    """A process, unless it is gone, and its children and theirs."""
    waiting = [pid]
    while waiting:
        pid = waiting.pop()
        yield pid
        with suppress(OSError):
            for thread in os.listdir(f"/proc/{pid}/task"):
                with suppress(OSError):
                    children = Path(f"/proc/{pid}/task/{thread}/children").read_text()
                    waiting.extend(int(child) for child in children.split())


def usage_of(pids: list[int]) -> Usage:
    memory_pages, ticks = 0, 0
    for pid in pids:
        with suppress(OSError, ValueError, IndexError):
            # The name, in parentheses, may hold anything; fields are counted from its end.
            fields = (
                Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
            )
            ticks += sum(int(field) for field in fields[11:15])
            memory_pages += int(fields[21])
    return Usage(memory_pages * _PAGE, ticks / _TICKS)


def exact_memory_bytes(pids: list[int]) -> int:
    """What is shared divided among those that share it, which costs a millisecond a process."""
    return sum(_exact_memory_bytes(pid) for pid in pids)


def _exact_memory_bytes(pid: int) -> int:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
        return 0
    with suppress(OSError, ValueError, IndexError):
        resident, shared = Path(f"/proc/{pid}/statm").read_text().split()[1:3]
        return (int(resident) - int(shared)) * _PAGE
    return 0
