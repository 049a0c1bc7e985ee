"""The process beside a run that starts a Ray head and ends it, whatever becomes of the run.

`python -m astuner.backbone.cluster.ray_head ARGUMENT ...` hands these to `ray start --head`.
When its standard input says a line or closes, which also a killed run brings about, it ends the
head and every process that came of it: those carry a mark in their environment. It knows Ray as a
command only, and no other Ray on the machine is touched.
"""

import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

MARK = "ASTUNER_RAY_HEAD"
NO_SPARE_WORKERS = {"RAY_prestart_worker_first_driver": "0"}
"""Those that Ray starts ahead lack the variables of the run, so none of its work goes to them."""
_GRACE_SECONDS = 8.0
"""Ray itself takes about two seconds to end a head whose workers are idle."""
_KILL_SECONDS = 8.0


def main(arguments: Sequence[str]) -> int:
    """Returns 0 when the head and all that it started are gone, 1 where some of it is left, and the
    code of `ray start` where that ended of itself."""
    mark = uuid.uuid4().hex
    head = subprocess.Popen(
        [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", *arguments],
        env={**NO_SPARE_WORKERS, **os.environ, MARK: mark},
        stdin=subprocess.DEVNULL,
    )
    signal.signal(signal.SIGTERM, lambda *_: head.terminate())
    is_asked = threading.Event()
    threading.Thread(target=_end_with_the_run, args=(head, is_asked), daemon=True).start()
    code = head.wait()
    remaining = _kill_marked(mark)
    if remaining:
        sys.stderr.write(f"processes of Ray that do not end: {sorted(remaining)}\n")
        return 1
    return 0 if is_asked.is_set() else code


def _end_with_the_run(head: subprocess.Popen[bytes], is_asked: threading.Event) -> None:
    sys.stdin.readline()
    is_asked.set()
    head.terminate()
    try:
        head.wait(timeout=_GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        head.kill()


def heads_of_runs() -> set[str]:
    """Host and port of the heads on this machine that end with the runs that started them."""
    flag = b"--gcs-address="
    return {
        argument.removeprefix(flag).decode()
        for folder in Path("/proc").iterdir()
        if any(entry.startswith(f"{MARK}=".encode()) for entry in _entries(folder / "environ"))
        for argument in _entries(folder / "cmdline")
        if argument.startswith(flag)
    }


def _kill_marked(mark: str) -> set[int]:
    """Kill what carries the mark until nothing does; returns what is left after the time."""
    deadline = time.monotonic() + _KILL_SECONDS
    while (found := _marked(mark)) and time.monotonic() < deadline:
        for pid in found:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.1)
    return found


def _marked(mark: str) -> set[int]:
    wanted = f"{MARK}={mark}".encode()
    return {
        int(folder.name)
        for folder in Path("/proc").iterdir()
        if folder.name.isdigit() and wanted in _entries(folder / "environ")
    }


def _entries(file: Path) -> list[bytes]:
    """Of what the kernel tells about a process; none for one that has ended."""
    try:
        return file.read_bytes().split(b"\0")
    except OSError:
        return []


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
