"""Work that is no training, until it is done or ended: of a command, or before a run."""

import asyncio
from collections.abc import Awaitable, Callable

from astuner.backbone.interrupt import interrupted_by_signals
from astuner.backbone.run import Run
from astuner.console import RunConsole
from astuner.errors import AstunerError, Quit
from astuner.llm import close_models
from astuner.rollout.threads import DaemonThreads

_BY_SIGNAL = 128
"""Exit codes above it are those of a signal."""


async def until_ended(
    work: Callable[[], Awaitable[None]], console: RunConsole, *, notice: str
) -> AstunerError | Quit | None:
    """What ended it early; None where nothing did. `notice` says at a signal what is kept.

    All models that it asked are closed.
    """
    # Code of users that never returns must not keep the command from ending.
    asyncio.get_running_loop().set_default_executor(DaemonThreads())
    with interrupted_by_signals(console, notice=notice) as interrupt:
        try:
            await work()
        except AstunerError as error:
            return error
        except asyncio.CancelledError:
            if not interrupt.is_requested:
                raise
        finally:
            await close_models()
    return Quit(interrupt.exit_code - _BY_SIGNAL) if interrupt.is_signalled else None


async def before_run(work: Awaitable[None], run: Run, *, notice: str) -> int:
    """Do what a run needs before it starts; the exit code of the signal that ended it, else 0.

    `notice` says at a signal what is kept.
    """
    with interrupted_by_signals(run.console, notice=notice, grace=run.grace) as interrupt:
        try:
            await work
        except asyncio.CancelledError:
            if not interrupt.is_requested:
                raise
    return interrupt.exit_code
