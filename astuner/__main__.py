"""The command `astuner`, also as `python -m astuner`: answers signals while it still imports.

Until the command is there, which takes some tenths of a second, Python would answer Ctrl-C with a
traceback of whatever was imported, and process 1 of a container would not heed SIGTERM at all.
"""

import gc
import os
import signal
import sys
from types import FrameType

from astuner.machine.heap import NEW_OBJECTS


def main() -> int:
    """Run the command of this process and return its exit code."""
    gc.set_threshold(NEW_OBJECTS)
    defaults = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    # One that is ignored, as under nohup or in the background of a shell, stays so.
    ours = {number: old for number, old in defaults.items() if signal.getsignal(number) is old}
    for number in ours:
        signal.signal(number, _end_at_once)
    from astuner.cli.main import main as run_command

    for number, old in ours.items():
        signal.signal(number, old)
    return run_command()


def _end_at_once(number: int, _frame: FrameType | None) -> None:
    """Nothing has begun that would have to be ended in order."""
    os.write(2, f"astuner: ended by {signal.Signals(number).name}\n".encode())
    os._exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
