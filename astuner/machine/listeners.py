"""Which program listens at a port of this machine, as far as the system tells this user."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_LISTENS = "0A"
"""How /proc/net/tcp writes the state."""
_MAX_SHOWN = 80


def listener_at(port: int) -> str | None:
    """As in `process 4242 (astuner logview)`; None where it is not known."""
    wanted = {f"socket:[{inode}]" for inode in _inodes(port)}
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # that of another user, or it has ended
            if any(os.readlink(file) in wanted for file in (process / "fd").iterdir()):
                return f"process {process.name} ({_command(process)})"
    return None


def _inodes(port: int) -> Iterator[str]:
    """Of the sockets that listen there."""
    for table in ("tcp", "tcp6"):
        with suppress(OSError):
            for line in Path("/proc/net", table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTENS and int(fields[1].rpartition(":")[2], 16) == port:
                    yield fields[9]


def _command(process: Path) -> str:
    words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
    shown = " ".join(words).strip()
    return shown if len(shown) <= _MAX_SHOWN else f"{shown[:_MAX_SHOWN]}…"
