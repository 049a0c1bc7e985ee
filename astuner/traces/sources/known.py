"""Which places with traces there are, and which one an address is."""

import io
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from astuner.errors import ConfigError, TraceSourceError
from astuner.traces.otlp.files import form_of
from astuner.traces.reading import Cursor, Found, TraceSource, Unread
from astuner.traces.sources.address import SourceAddress
from astuner.traces.sources.atif import atif_files, is_atif_row
from astuner.traces.sources.langfuse import LangfuseSource, is_langfuse_row, langfuse_files
from astuner.traces.sources.langsmith import is_langsmith_row, langsmith_files
from astuner.traces.sources.mlflow import MlflowSource, is_mlflow_row, mlflow_files
from astuner.traces.sources.openai_chat import is_openai_chat_row, openai_chat_files
from astuner.traces.sources.otlp_file import OTLP_ENDINGS, OtlpFileSource
from astuner.traces.sources.phoenix import PhoenixSource, is_phoenix_row, phoenix_files
from astuner.traces.sources.rows import JSON_ENDINGS, PARQUET, SourceFiles, first_row, table_columns
from astuner.traces.sources.run_dir import RunDirSource, is_episode_row, is_run_dir
from astuner.traces.sources.studio import SQLITE_HEAD, StudioSource
from astuner.traces.sources.trace_lines import TraceLinesSource, is_trace_row
from astuner.traces.sources.web import glance
from astuner.traces.stored_file import BROKEN_GZIP, opened

_FILES_LOOKED_AT = 20
"""Of a folder, until one is known."""
_PROGRESS_EACH = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFormat:
    """One kind of place. What it cannot be is None."""

    what: str
    """For people."""
    file: Callable[[SourceAddress], TraceSource] | None = None
    """Opens a file or folder."""
    server: Callable[[SourceAddress], TraceSource] | None = None
    """Opens a URL."""
    knows: Callable[[Mapping[str, Any]], bool] = field(default=lambda row: False)
    """Whether an object of JSON, or the columns of a table, are its."""


SOURCES: Mapping[str, SourceFormat] = {
    "otlp": SourceFormat(
        what="OTLP in files: lines of JSON or protobuf, as collectors and `astuner serve --record` "
        "write them",
        file=OtlpFileSource,
        knows=lambda row: "resourceSpans" in row or "resourceLogs" in row,
    ),
    "studio": SourceFormat(what="the database of AgentScope Studio", file=StudioSource),
    "phoenix": SourceFormat(
        what="the URL of a Phoenix server, or its spans as Parquet or JSON",
        file=phoenix_files,
        server=PhoenixSource,
        knows=is_phoenix_row,
    ),
    "mlflow": SourceFormat(
        what="the URL of an MLflow server, or the JSON of `mlflow traces search --output json`",
        file=mlflow_files,
        server=MlflowSource,
        knows=is_mlflow_row,
    ),
    "langfuse": SourceFormat(
        what="the URL of a Langfuse server, its exports as JSON lines, or a saved trace",
        file=langfuse_files,
        server=LangfuseSource,
        knows=is_langfuse_row,
    ),
    "langsmith": SourceFormat(
        what="runs of LangSmith as JSON lines or Parquet",
        file=langsmith_files,
        knows=is_langsmith_row,
    ),
    "atif": SourceFormat(
        what="trajectories in ATIF, as Harbor's agents write them",
        file=atif_files,
        knows=is_atif_row,
    ),
    "run_dir": SourceFormat(
        what="a run directory of astuner, or a file of its episodes",
        file=RunDirSource,
        knows=is_episode_row,
    ),
    "traces": SourceFormat(
        what="a folder or file that `astuner traces import` wrote",
        file=TraceLinesSource,
        knows=is_trace_row,
    ),
    "openai_chat": SourceFormat(
        what="JSON lines with messages, as OpenAI takes them for fine-tuning",
        file=openai_chat_files,
        knows=is_openai_chat_row,
    ),
}
"""By the name that `Origin.source` has; the first that knows a row counts."""


def open_source(
    text: str,
    *,
    format: str | None = None,
    project: str | None = None,
    wait_seconds: float = 5.0,
    progress: Callable[[int], None] | None = None,
) -> TraceSource:
    """The place with traces at a path or URL; by its content where `format` is not given.

    `project` is of servers, see `SourceAddress`; `progress` is told now and then how many spans,
    events and traces were read. Raises ConfigError for a format that is not known or has no such
    address, TraceSourceError where nothing is there or nothing of it is known.
    """
    address = SourceAddress(text=text, project=project, wait_seconds=wait_seconds)
    name = format or _recognised(address)
    if name not in SOURCES:
        raise ConfigError(
            f"format {name!r} of {address.shown} is not known; there are {', '.join(SOURCES)}"
        )
    known = SOURCES[name]
    opener = known.server if address.is_url else known.file
    if opener is None:
        found = "a URL" if address.is_url else "a path"
        raise ConfigError(f"{address.shown}: {name} is {known.what}, and this is {found}")
    source = opener(address)
    return source if progress is None else _ToldSource(source, progress)


class _ToldSource:
    """A source that tells how far it is."""

    def __init__(self, source: TraceSource, progress: Callable[[int], None]) -> None:
        self.name, self.address = source.name, source.address
        self._source, self._progress = source, progress

    def read(self, unread: Unread, since: Cursor) -> Iterator[Found]:
        number = 0
        for found in self._source.read(unread, since):
            number += 1
            if number % _PROGRESS_EACH == 0:
                self._progress(number)
            yield found
        self._progress(number)

    def cursor(self) -> Cursor:
        return self._source.cursor()


def _recognised(address: SourceAddress) -> str:
    if address.is_url:
        return _of_server(address)
    if not address.path.exists():
        raise TraceSourceError(
            f"{address.shown}: there is no such file or folder; name {_all_formats()}"
        )
    if address.path.is_dir() and is_run_dir(address.path):
        return "run_dir"
    endings = tuple(dict.fromkeys((*JSON_ENDINGS, *OTLP_ENDINGS, ".db", ".sqlite")))
    said = ""
    for path in SourceFiles(address.path, endings=endings).paths()[:_FILES_LOOKED_AT]:
        name, found = _of_file(path)
        if name is not None:
            return name
        said = said or f"{path.name}: {found}"
    raise TraceSourceError(
        f"{address.shown}: no traces of a known format, but {said}; known are {_all_formats()}. "
        "Where it is one of these all the same, say which by its name as format"
    )


def _of_file(path: Path) -> tuple[str | None, str]:
    """The format, or None and what was found."""
    with opened(path) as file:
        try:
            head = file.read(64)
        except (*BROKEN_GZIP, OSError) as error:
            return None, f"a packed file that cannot be unpacked ({error})"
    if not head:
        return None, "an empty file"
    if head.startswith(SQLITE_HEAD):
        return "studio", ""
    if head.startswith(PARQUET):
        columns = table_columns(path)
        return _of_row(dict.fromkeys(columns)), f"a table with {_some(columns)}"
    if form_of(io.BytesIO(head)) != "json":
        return "otlp", ""
    if (row := first_row(path)) is not None:
        return _of_row(row), f"JSON with {_some(row)}"
    return None, f"{head[:40]!r}"


def _of_row(row: Mapping[str, Any]) -> str | None:
    return next((name for name, source in SOURCES.items() if source.knows(row)), None)


def _some(names: Any) -> str:
    return ", ".join(sorted(map(str, names))[:8]) or "nothing in it"


def _of_server(address: SourceAddress) -> str:
    """By what each of them says without a login, and the others do not."""
    url = address.url.partition("/projects/")[0]
    answers = 0
    for name, path, knows in _SIGNS:
        answer = glance(url, path)
        if answer is not None:
            answers += 1
            if knows(answer):
                return name
    if not answers:
        raise TraceSourceError(
            f"{address.shown}: nobody answers there; see whether the server runs and this is its "
            "address, or name its format to wait for it longer"
        )
    raise TraceSourceError(
        f"{address.shown}: a server that is neither Phoenix nor Langfuse nor MLflow; see whether "
        "this is the address of the server itself, or name its format"
    )


def _is_langfuse(answer: Any) -> bool:
    try:
        told = answer.json()
    except ValueError:
        return False
    return isinstance(told, dict) and "version" in told and "status" in told


_SIGNS: tuple[tuple[str, str, Callable[[Any], bool]], ...] = (
    ("phoenix", "/v1/projects", lambda answer: "x-phoenix-server-version" in answer.headers),
    ("langfuse", "/api/public/health", _is_langfuse),
    ("mlflow", "/version", lambda answer: re.match(r"\d+\.\d+", answer.text) is not None),
)


def _all_formats() -> str:
    return "; ".join(f"{name} ({source.what})" for name, source in SOURCES.items())
