r"""The child process that compares expressions with math-verify; run as a script, never imported.

One JSON object per line on standard input, {"answer", "reference", "timeout_seconds"}, and one
per line back, {"equal"}. The first line back says {"ready"} or {"error"}. Ends when its input
ends, so it does not outlive its parent; while it computes, an alarm of the kernel and a limit on
memory end it even inside C code.
"""

import contextlib
import json
import os
import resource
import signal
import sys

MAX_MEMORY_BYTES = 2 * 1024**3
GRACE_SECONDS = 1.0
"""The parent kills first; the alarm is for a worker whose parent is gone."""


def main() -> int:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which closes our input
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    try:
        is_equal("\\frac{1}{2}", "0.5")  # loads the grammar, about half a second
    except ImportError as error:
        replies.write(json.dumps({"error": str(error)}) + "\n")
        return 1
    replies.write(json.dumps({"ready": True}) + "\n")
    for line in sys.stdin:
        replies.write(json.dumps({"equal": answer_request(json.loads(line))}) + "\n")
    return 0


def answer_request(request: dict) -> bool:
    signal.setitimer(signal.ITIMER_REAL, request["timeout_seconds"] + GRACE_SECONDS)
    verdict = is_equal(request["answer"], request["reference"])
    signal.setitimer(signal.ITIMER_REAL, 0)
    return verdict


def is_equal(answer: str, reference: str) -> bool:
    # math-verify's own time limits use the alarm that is ours here, and miss C code.
    from math_verify import LatexExtractionConfig, parse, verify

    config = [LatexExtractionConfig(boxed_match_priority=0)]
    parsed = [
        parse(f"\\boxed{{{text}}}", config, fallback_mode="no_fallback", parsing_timeout=0)
        for text in (reference, answer)
    ]
    return all(parsed) and verify(parsed[0], parsed[1], timeout_seconds=0)


if __name__ == "__main__":
    sys.exit(main())
