"""Writes what was said in calls, and what people said of it, to a folder, beside the answers.

The event loop hands calls over and goes on. A thread masks them and writes them in batches; where
it cannot keep up, calls are left out and counted, since answers must not wait for it.
"""

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from astuner.machine.os_errors import advice, told
from astuner.model_server.call_metrics import MeterReading
from astuner.model_server.call_span import call_span
from astuner.model_server.served_call import ServedCall
from astuner.run_dir import json_line
from astuner.serving.seldom_log import SeldomLog
from astuner.traces.folder import check_writable
from astuner.traces.otlp_json import JSON, attributes, logs_data, traces_data
from astuner.traces.private_text import PrivateMask
from astuner.traces.trace_files import TraceFiles, TraceKind

logger = logging.getLogger(__name__)

_MAX_WAITING = 2_000
_MAX_WAITING_BYTES = 64_000_000
_BATCH = 64
"""Records that are synced at once: a kill loses no more of those that the thread has taken up."""
_BYTES_OF_A_NUMBER = 32
_BYTES_OF_OTHER = 1_000
DROP_REASONS = ("too_many_waiting", "not_written", "not_readable")
"""Of records that were left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordingOptions:
    """What the operator asked for."""

    folder: Path
    is_masked: bool
    """Whether personal data and secrets are taken out before anything is written."""
    max_mb: float | None
    """Of the whole folder; the oldest files go. None: all is kept."""
    version: str
    """Of this package."""

    def notice(self) -> str:
        """What whoever starts the server is to know."""
        masked = (
            "with personal data and secrets masked as far as rules find them"
            if self.is_masked
            else "AS THEY ARE, personal data and secrets included"
        )
        return (
            f"prompts and replies are written to {self.folder}, {masked}; a call with the header "
            "x-astuner-record: no is left out"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _WaitingRecord:
    kind: TraceKind
    make: Callable[[], JSON]
    num_bytes: int
    """About what it holds."""
    written: "Future[None]"


class CallRecorder:
    """Observes calls; see `CallObserver`. To be closed."""

    def __init__(
        self, options: RecordingOptions, *, today: Callable[[], str] = lambda: str(date.today())
    ) -> None:
        """Raises ConfigError where nothing can be written there, or a package is missing."""
        self._mask = None
        if options.is_masked:
            self._mask = PrivateMask(wanted_by="--record", instead="give --record-unmasked")
        check_writable(options.folder, setting="--record")
        self._options = options
        max_bytes = None if options.max_mb is None else options.max_mb * 1e6
        self._files: dict[TraceKind, TraceFiles] = {
            kind: TraceFiles(options.folder, kind, max_bytes=max_bytes, today=today)
            for kind in ("traces", "feedback")
        }
        self._scope = {"name": "astuner.model_server", "version": options.version}
        self._resource = {"service.name": "astuner", "service.version": options.version}
        self._log = SeldomLog(logger, clock=time.monotonic)
        self._changed = threading.Condition()
        self._waiting: deque[_WaitingRecord] = deque()
        self._waiting_bytes = 0
        self._is_closing = False
        self.num_written = 0
        self.dropped: Counter[str] = Counter()
        """By one of DROP_REASONS."""
        self._thread = threading.Thread(target=self._work, name="call recorder", daemon=True)
        self._thread.start()

    def served(self, call: ServedCall) -> None:
        """Have it written, unless the client wants otherwise or nothing was said in it."""
        if call.is_recordable and call.messages:
            self._put(
                "traces", lambda: self._trace(call), num_bytes=_size_of(call), written=Future()
            )

    def keep(self, event: Mapping[str, Any], private: Mapping[str, Any]) -> "Future[None]":
        """Have a log record written; of its attributes, those that are `private` may be masked.

        The result comes when the disk has it; OSError: it has not.
        """
        written: Future[None] = Future()

        def make() -> JSON:
            shown = self._mask.mask(private).value if self._mask else private
            return logs_data(_with(event, shown), resource=self._resource, scope=self._scope)

        self._put("feedback", make, num_bytes=1_000, written=written)
        return written

    def readings(self) -> Iterator[MeterReading]:
        """For the metrics of the server."""
        told = "calls and feedback that were recorded"
        yield MeterReading(name="records_total", told=told, value=self.num_written, kind="counter")
        for reason in DROP_REASONS:
            yield MeterReading(
                name="records_dropped_total",
                told="records that were left out, so that answers did not wait for them",
                value=self.dropped[reason],
                kind="counter",
                labels={"reason": reason},
            )

    def close(self, *, seconds: float) -> None:
        """Write what waits, for so long at most."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        self._thread.join(seconds)
        if self._thread.is_alive():
            logger.warning(
                "records not written num=%d: the disk took longer than %g s for the last ones",
                *(len(self._waiting), seconds),
            )

    def _trace(self, call: ServedCall) -> JSON:
        return traces_data(call_span(call, self._mask), resource=self._resource, scope=self._scope)

    def _put(
        self, kind: TraceKind, make: Callable[[], JSON], *, num_bytes: int, written: "Future[None]"
    ) -> None:
        one = _WaitingRecord(kind=kind, make=make, num_bytes=num_bytes, written=written)
        with self._changed:
            has_room = self._waiting_bytes + num_bytes <= _MAX_WAITING_BYTES
            if len(self._waiting) < _MAX_WAITING and has_room and not self._is_closing:
                self._waiting.append(one)
                self._waiting_bytes += num_bytes
                self._changed.notify()
                return
        error = BlockingIOError("too many records wait for the disk")
        self._drop([one], "too_many_waiting", error)

    def _work(self) -> None:
        while batch := self._next_batch():
            for kind in self._files:
                self._write(kind, [one for one in batch if one.kind == kind])
        for files in self._files.values():
            files.close()

    def _next_batch(self) -> list[_WaitingRecord]:
        """At least one; none when it is over."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._is_closing)
            batch = [self._waiting.popleft() for _ in range(min(_BATCH, len(self._waiting)))]
            self._waiting_bytes -= sum(one.num_bytes for one in batch)
            return batch

    def _write(self, kind: TraceKind, batch: list[_WaitingRecord]) -> None:
        made = [(one, line) for one in batch if (line := self._line(one)) is not None]
        if not made:
            return
        try:
            self._files[kind].append([line for _, line in made])
        except OSError as error:
            self._drop([one for one, _ in made], "not_written", error)
            return
        self.num_written += len(made)
        for one, _ in made:
            one.written.set_result(None)

    def _line(self, one: _WaitingRecord) -> bytes | None:
        try:
            return json_line(one.make(), where=str(self._options.folder))
        except Exception as error:  # noqa: BLE001  # the thread lives on for all other calls
            self._drop([one], "not_readable", error)
            return None

    def _drop(self, batch: list[_WaitingRecord], reason: str, error: Exception) -> None:
        self.dropped[reason] += len(batch)
        folder = self._options.folder
        why, then = type(error).__name__, "answers go on without"
        if isinstance(error, OSError):
            why = told(error, folder=folder)
            then = f"{then}; to record again, {advice(error.errno)}"
        self._log.warn(
            reason, "records left out num=%d folder=%s: %s; %s", len(batch), folder, why, then
        )
        for one in batch:
            one.written.set_exception(error)


def _with(event: Mapping[str, Any], shown: Mapping[str, Any]) -> JSON:
    known = {key: value for key, value in shown.items() if value is not None}
    return {**event, "attributes": [*event["attributes"], *attributes(known)]}


def _size_of(call: ServedCall) -> int:
    """About; of messages that were refused, whatever the client sent may stand there."""
    contents = [message.get("content") for message in call.messages]
    texts = sum(len(one) if isinstance(one, str) else _BYTES_OF_OTHER for one in contents)
    numbers = len(call.prompt_ids) + len(call.reply_ids) + len(call.logprobs)
    return texts + numbers * _BYTES_OF_A_NUMBER + 1_000
