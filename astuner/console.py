"""What a person sees while a run goes on: a live line on a terminal, plain lines elsewhere.

Owns the screen and nothing else; it is given numbers and never computes metrics.
"""

import contextlib
import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, TextIO, cast

from rich.console import Console, Group, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from astuner.machine.visible import visible

logger = logging.getLogger(__name__)

_PLAIN_INTERVAL_SECONDS = 30.0


class _LastingStream:
    """Text for a screen that may go away: a closed terminal, a pipe whose reader ended, a full
    device. What cannot be written then is dropped, since run.log keeps it, and the run goes on."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with self._dropped_where_refused():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._dropped_where_refused():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @contextlib.contextmanager
    def _dropped_where_refused(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:
            logger.debug("the screen takes no more text: %r", error)
            with contextlib.suppress(OSError, ValueError):
                self._give_up()

    def _give_up(self) -> None:
        """Lead the descriptor, and that of standard output where it is the same file, nowhere:
        what is still buffered would fail again, and in user code, which prints too."""
        screen = self._stream.fileno()
        nowhere = os.open(os.devnull, os.O_WRONLY)
        lost = [screen]
        with contextlib.suppress(OSError, ValueError):
            output = sys.__stdout__.fileno() if sys.__stdout__ else screen
            if os.path.sameopenfile(output, screen):
                lost.append(output)
        for descriptor in lost:
            os.dup2(nowhere, descriptor)
        os.close(nowhere)


def open_screen() -> Console:
    """Standard error, for all that a run shows; nothing is shown where the process has none."""
    stream = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  # as it lasts
    return Console(file=cast(TextIO, _LastingStream(stream)), highlight=False)


class RunConsole:
    """Shows phases of a run and one line for each step."""

    def __init__(self, console: Console, *, is_live: bool) -> None:
        """With `is_live=False` the screen is left to others, such as a debugger's prompt."""
        self._console = console
        self._is_live = is_live and self._console.is_terminal
        self._status = Text("")
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
            console=self._console,
            auto_refresh=False,
        )
        self._bar = self._progress.add_task("", total=None, note="")
        self._live = None
        self._last_plain = time.monotonic()
        self._phase = ""

    def __enter__(self) -> "RunConsole":
        if self._is_live:
            from rich.live import Live

            self._live = Live(
                get_renderable=self._render,
                console=self._console,
                refresh_per_second=4,
                transient=True,
            )
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def say(self, text: str) -> None:
        """Print one line above the live part; run.log keeps it too."""
        logger.debug("%s", text)
        self._console.print(visible(text), markup=False, soft_wrap=True)

    def show(self, drawn: RenderableType, plain: str) -> None:
        """Print what has styles and more than a line; `plain` is for a pipe, and for run.log."""
        if not self._console.is_terminal:
            self.say(plain)
            return
        logger.debug("%s", plain)
        self._console.print(drawn)

    def warn(self, text: str) -> None:
        """Say what the user should look at."""
        self.say(f"warning: {text}")

    def status(self, text: str) -> None:
        """Replace the summary below the progress bar."""
        self._status = Text(text)

    def phase(self, name: str) -> None:
        """Begin a phase, such as the rollout of a step."""
        self._phase = name
        self._last_plain = time.monotonic()
        self._progress.reset(self._bar, total=None, description=name, note="")

    def advance(self, done: int, total: int, note: str = "") -> None:
        """Set how many parts of the phase are done; off a terminal, say so now and then."""
        self._progress.update(self._bar, completed=done, total=total, note=note)
        if self._live is None and time.monotonic() - self._last_plain > _PLAIN_INTERVAL_SECONDS:
            self._last_plain = time.monotonic()
            self.say(f"  {self._phase}: {done} of {total} {note}")

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        table = Table(title=title, title_justify="left", show_edge=False)
        for index, column in enumerate(columns):
            table.add_column(column, justify="left" if index == 0 else "right")
        for row in rows:
            table.add_row(*row)
        self._console.print(table)

    def _render(self) -> RenderableType:
        return Group(self._progress.get_renderable(), self._status)


class LoggedConsole(RunConsole):
    """For a log that machines read: what a person would see becomes records, nothing is drawn."""

    def __init__(self) -> None:
        super().__init__(Console(quiet=True), is_live=False)

    def say(self, text: str) -> None:
        logger.info("%s", text.strip())

    def show(self, drawn: RenderableType, plain: str) -> None:
        self.say(plain)

    def warn(self, text: str) -> None:
        logger.warning("%s", text)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        for row in rows:
            cells = zip(columns, row, strict=True)
            logger.info("%s: %s", title, " ".join(f"{name}={cell}" for name, cell in cells))


def step_line(step: int, num_steps: int | None, metrics: Mapping[str, Any], left: str) -> str:
    """One line about a finished step."""
    of = f"/{num_steps}" if num_steps is not None else ""
    seconds = metrics["rollout/seconds"] + metrics["train/seconds"]
    return (
        f"step {step}{of}  reward {number(metrics['reward/mean'], 3)}  "
        f"success {number(metrics['reward/success_rate'], 2)}  "
        f"episodes {metrics['rollout/episodes']:.0f}"
        f" ({metrics['rollout/failed_episodes']:.0f} failed)  "
        f"{metrics['rollout/tokens'] / max(metrics['rollout/seconds'], 1e-9):.0f} tokens/s  "
        f"loss {number(metrics['train/loss'], 4)}  {seconds:.1f} s  left {left}"
    )


def number(value: float | None, digits: int) -> str:
    """A dash where it is not known."""
    return "-" if value is None else f"{value:.{digits}f}"


def data_size(num_bytes: int) -> str:
    """In the unit in which disks are sold."""
    return f"{num_bytes / 1e9:,.2f} GB" if num_bytes >= 1e8 else f"{num_bytes / 1e6:,.1f} MB"


def duration(seconds: float | None) -> str:
    """Hours, minutes and seconds as people write them; "?" when not known."""
    if seconds is None:
        return "?"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s"
