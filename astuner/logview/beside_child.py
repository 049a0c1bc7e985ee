"""What the process of a viewer beside a run does; see `beside.py`. Run, not imported."""

import asyncio
import contextlib
import os
import socket
import sys
import threading
from pathlib import Path

from astuner import log
from astuner.errors import AstunerError

_NICE = 10
"""The run comes first where processors are few."""
_OUT_OF_MEMORY = b"500"
"""Of 1000: what the system takes first when memory runs out is this process, and not the run."""


def main(socket_fd: str, lifeline: str, folder: str) -> int:
    """Serve the runs of a folder at a socket that listens, until the other end of a pipe is closed.

    Both are numbers of files that this process was given.
    """
    threading.Thread(target=_end_with_the_run, args=(int(lifeline),), daemon=True).start()
    os.set_blocking(sys.stderr.fileno(), False)  # a run that is stopped listens to nothing
    os.nice(_NICE)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_bytes(_OUT_OF_MEMORY)
    with log.install(None, "WARNING"):
        try:
            asyncio.run(_serve(Path(folder), socket.socket(fileno=int(socket_fd))))
        except AstunerError as error:
            print(error, file=sys.stderr)  # noqa: T201  # the run tells it
    return 1


def _end_with_the_run(lifeline: int) -> None:
    """At once: what is being answered is a page of a viewer that is gone."""
    os.read(lifeline, 1)
    os._exit(0)


async def _serve(folder: Path, listening: socket.socket) -> None:
    from astuner.logview.reading.shelf import Shelf
    from astuner.logview.web.entrance import LOOPBACK, Entrance
    from astuner.logview.web.serve import serve

    entrance = Entrance(listening=listening, host=LOOPBACK, is_private=True, token=None)
    await serve(Shelf([folder]), entrance, until=asyncio.Event().wait())


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
