"""Writes what exporters send: unpacked, read, masked and synced in one thread, one by one.

The event loop reads bodies and answers; a request is answered when the disk has it.
"""

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from astuner.collecting.export_request import (
    ExportResult,
    Signal,
    form_of_body,
    read_export,
    unpacked,
)
from astuner.collecting.kept_export import kept_export
from astuner.collecting.private_otlp import OtlpMask
from astuner.machine.os_errors import advice, told
from astuner.serving.refusal import Refusal
from astuner.traces.folder import check_writable
from astuner.traces.mask_key import mask_key
from astuner.traces.private_text import PrivateMask
from astuner.traces.trace_files import TraceFiles

_RETRY_SECONDS = 30
"""What a disk that refuses is given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepingOptions:
    """What is kept, and where."""

    folder: Path
    is_masked: bool
    """Whether personal data and secrets are taken out before anything is written."""
    max_mb: float | None
    """Of the whole folder; the oldest files go. None: all is kept."""
    max_body_bytes: int
    """Of one request, packed or not."""


class ExportWriter:
    """Keeps requests. To be closed."""

    def __init__(
        self, options: KeepingOptions, *, today: Callable[[], str] = lambda: str(date.today())
    ) -> None:
        """Raises ConfigError where nothing can be written there, or a package is missing."""
        self._options = options
        check_writable(options.folder, setting="traces collect: --out")
        self._masked = _mask_of(options)
        max_bytes = None if options.max_mb is None else options.max_mb * 1e6
        self._files: dict[Signal, TraceFiles] = {
            kind: TraceFiles(options.folder, kind, max_bytes=max_bytes, today=today)
            for kind in ("traces", "logs")
        }
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="export writer")

    async def keep(
        self, body: bytes, headers: Mapping[bytes, bytes], signal: Signal
    ) -> ExportResult:
        """What became of a request, once the disk has it.

        Raises Refusal for one that cannot be read, and 503 where the disk refuses.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._keep, body, headers, signal)

    def close(self) -> None:
        """Waits for what is being written."""
        self._thread.shutdown()
        for files in self._files.values():
            files.close()

    def _keep(self, body: bytes, headers: Mapping[bytes, bytes], signal: Signal) -> ExportResult:
        data = unpacked(body, headers, max_bytes=self._options.max_body_bytes)
        document = read_export(data, form_of_body(headers), signal)
        kept = kept_export(document, signal, self._masked)
        if kept.lines:
            try:
                self._files[signal].append(kept.lines)
            except OSError as error:
                raise self._not_written(error) from error
        return kept.result

    def _not_written(self, error: OSError) -> Refusal:
        folder = self._options.folder
        return Refusal(
            503,
            f"nothing can be written to {folder}: {told(error, folder=folder)}; to go on, "
            f"{advice(error.errno)}",
            code="not_written",
            headers={"retry-after": str(_RETRY_SECONDS)},
        )


def _mask_of(options: KeepingOptions) -> Callable[[Any], Any]:
    if not options.is_masked:
        return lambda value: value
    private = PrivateMask(wanted_by="traces collect", instead="give --unmasked")
    return OtlpMask(private, key=mask_key(options.folder)).masked
