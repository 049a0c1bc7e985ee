"""What a command was asked to show, on standard output, whoever reads it."""

import os
import sys


def write_out(text: str) -> bool:
    """Write to the screen; whoever reads it may leave early, as `head` does. False once it did."""
    encoding = sys.stdout.encoding or "utf-8"
    try:
        print(text.encode(encoding, "backslashreplace").decode(encoding), end="", flush=True)
    except BrokenPipeError:
        # Python writes what is left at its end, and would tell of the pipe then.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return False
    return True
