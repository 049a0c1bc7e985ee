"""Traces of runs written to a folder for other programs, as they come.

A file of ATIF appears whole, a line of OTLP too, so that whatever ends an export leaves what is
whole.
"""

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Literal

from astuner.errors import ConfigError
from astuner.run_dir import json_line, naming_the_file
from astuner.traces.otlp_json import JSON
from astuner.traces.trace import Trace
from astuner.traces.trace_files import TraceFiles, TraceKind
from astuner.traces.writers.atif import atif_trajectory, continuations
from astuner.traces.writers.otlp import otlp_lines

ExportFormat = Literal["atif", "otlp"]
_LINES_AT_ONCE = 100


@dataclass(slots=True, kw_only=True)
class TraceExport:
    """Counts what was written."""

    num_traces: int = 0
    num_episodes: int = 0


def export_traces(
    traces: Iterable[Trace],
    folder: Path,
    to: ExportFormat,
    *,
    version: str,
    tell: Callable[[TraceExport], None],
) -> TraceExport:
    """Write traces, those of one session behind each other, and `tell` how far it is.

    `version` is of this package. Raises AstunerError where the file system refuses.
    """
    written = TraceExport()
    with naming_the_file(folder):
        folder.mkdir(parents=True, exist_ok=True)
        writer = _AtifFolder(folder) if to == "atif" else _OtlpFolder(folder, version)
        with closing(writer):
            for _, group in itertools.groupby(traces, key=lambda trace: trace.session):
                episode = list(group)
                writer.write(episode)
                written.num_traces += len(episode)
                written.num_episodes += 1
                tell(written)
    return written


def check_new(folder: Path) -> None:
    """Raises ConfigError for a folder that holds something."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(
            f"traces export: --out {folder} is there and not empty; name a new folder"
        )


def named_by_run(traces: Iterable[Trace], run: str) -> Iterator[Trace]:
    """With the run before each id, so that those of several runs can lie together."""
    for trace in traces:
        session = None if trace.session is None else f"{run}:{trace.session}"
        yield replace(trace, trace_id=f"{run}:{trace.trace_id}", session=session)


class _AtifFolder:
    """One file for each trajectory, which is what readers of ATIF expect."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, episode: Sequence[Trace]) -> None:
        goes_on = continuations(episode)
        for trace in episode:
            later = goes_on.get(trace.trace_id)
            told = atif_trajectory(trace, continued_in=later and _file_name(later))
            path = self._folder / _file_name(trace.trace_id)
            partial = path.with_suffix(".partial")
            partial.write_bytes(json_line(told, where=path.name))
            partial.replace(path)

    def close(self) -> None:
        for partial in self._folder.glob("*.partial"):
            partial.unlink()


def _file_name(trace_id: str) -> str:
    return f"{re.sub(r'[^A-Za-z0-9_.-]+', '_', trace_id)}.json"


class _OtlpFolder:
    """Spans in one kind of file, feedback in another."""

    def __init__(self, folder: Path, version: str) -> None:
        self._version = version
        self._files: dict[TraceKind, TraceFiles] = {
            kind: TraceFiles(folder, kind, max_bytes=None, today=lambda: str(date.today()))
            for kind in ("traces", "feedback")
        }
        self._lines: dict[TraceKind, list[JSON]] = {kind: [] for kind in self._files}

    def write(self, episode: Sequence[Trace]) -> None:
        for trace in episode:
            lines = otlp_lines(trace, version=self._version)
            self._lines["traces"] += lines.traces
            self._lines["feedback"] += lines.feedback
        if len(self._lines["traces"]) >= _LINES_AT_ONCE:
            self._write()

    def close(self) -> None:
        self._write()
        for files in self._files.values():
            files.close()

    def _write(self) -> None:
        for kind in self._files:
            if self._lines[kind]:
                lines = [json_line(line, where=kind) for line in self._lines[kind]]
                self._files[kind].append(lines)
                self._lines[kind] = []
