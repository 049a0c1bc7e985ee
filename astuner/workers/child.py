"""What a worker process runs, given the file of its computation; run as a script, never imported.

That file has `prepare()`, `answer(request)` and `MAX_MEMORY_BYTES`, and imports nothing of astuner.
One JSON object per line on standard input, {"request", "seconds"}, and the answer, an object too,
per line back. The first line back says {"ready"} or {"error"}. Ends when its input ends, so it
does not outlive its parent; while it computes, an alarm of the kernel and a limit on memory end it
even inside C code.
"""

import contextlib
import json
import os
import resource
import runpy
import signal
import sys

GRACE_SECONDS = 1.0
"""The parent kills first; the alarm is for a worker whose parent is gone."""


def main(computation_file: str) -> int:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which closes our input
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    computation = runpy.run_path(computation_file)
    limit = computation["MAX_MEMORY_BYTES"]
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    try:
        computation["prepare"]()
    except ImportError as error:
        replies.write(json.dumps({"error": str(error)}) + "\n")
        return 1
    replies.write(json.dumps({"ready": True}) + "\n")
    for line in sys.stdin:
        asked = json.loads(line)
        signal.setitimer(signal.ITIMER_REAL, asked["seconds"] + GRACE_SECONDS)
        answer = computation["answer"](asked["request"])
        signal.setitimer(signal.ITIMER_REAL, 0)
        replies.write(json.dumps(answer) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
