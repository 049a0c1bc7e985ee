"""The command `astuner logview` as a process, in the way in which a person starts it."""

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, Queue

STARTS_WITHIN_SECONDS = 60
ENDS_WITHIN_SECONDS = 30


@contextmanager
def viewing(*folders: Path, cache: Path) -> Iterator[str]:
    """Start the viewer over the folders; gives its address, without a slash at the end."""
    command = [sys.executable, "-m", "astuner", "logview", *map(str, folders), "--port", "0"]
    process = subprocess.Popen(
        command,
        env={**os.environ, "XDG_CACHE_HOME": str(cache)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    said: list[str] = []
    addresses: Queue[str] = Queue()
    reading = threading.Thread(target=_read, args=(process, said, addresses))
    reading.start()
    try:
        yield addresses.get(timeout=STARTS_WITHIN_SECONDS)
    except Empty:
        raise AssertionError(f"the viewer gave no address:\n{''.join(said)}") from None
    finally:
        ended_with = process.poll()
        process.terminate()
        try:
            process.wait(ENDS_WITHIN_SECONDS)
        finally:
            process.kill()
            reading.join()
        assert ended_with is None, f"the viewer ended with {ended_with}:\n{''.join(said)}"


def _read(process: subprocess.Popen[str], said: list[str], addresses: "Queue[str]") -> None:
    """To the end, so that the process never waits for its reader."""
    assert process.stdout is not None
    with process.stdout:
        for line in process.stdout:
            said.append(line)
            found = re.search(r"http://[\w.:\[\]-]+", line)
            if found:
                addresses.put(found[0])
