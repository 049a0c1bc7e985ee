"""`astuner traces`: what deployed agents did, in and out of every format, and counted."""

import argparse
import asyncio
import json
import os
import re
import secrets
import signal
import textwrap
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from astuner.cli.output import write_out
from astuner.cli.until_signal import awaited_signal
from astuner.errors import ConfigError, Quit

if TYPE_CHECKING:
    from astuner.collecting.collector import Collector
    from astuner.console import RunConsole
    from astuner.trace_tasks.masking import TraceMask
    from astuner.traces.reading import TraceSource
    from astuner.traces.trace import Trace

SUMMARY = "import, collect, count and export what deployed agents did"
EXAMPLE = "astuner traces import http://127.0.0.1:6006 --out traces --preview 3"

_SECONDS = {"h": 3600, "d": 24 * 3600, "w": 7 * 24 * 3600}
_EPILOG = """\
examples:
  astuner traces collect --out collected     receive what agents send by OpenTelemetry, masked:
                                             OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4318
  astuner traces stats collected             what is in there: agents, tools, errors, feedback
  astuner traces import collected --out traces --preview 3
                                             show three conversations, write nothing
  astuner traces import http://127.0.0.1:6006 ~/AgentScope-Studio/database.sqlite --out traces
                                             from a Phoenix server and a Studio database; again,
                                             and only what is new comes
  astuner traces import export.jsonl --format langfuse --since 30d --out traces
                                             of a format that its content does not show; of the
                                             last thirty days
  astuner traces export latest --to atif --out trajectories
                                             the newest run, with token ids and log-probabilities,
                                             a file for each conversation
  astuner traces export launcher_record/math_agent/latest --to otlp --step 20 --out spans
                                             one step of a run, for Phoenix, MLflow and others

sources (SOURCE), known by their content, or by --format:
{formats}

import masks personal data and secrets before anything is written, and users become digests; names
of people that only texts tell are not looked for. Token ids are kept of conversations in which
nothing was masked. Feedback that comes after its conversation was imported is counted as not read:
import to a new folder to have it. export writes all that was said, as it is.

Exit codes: 0 done, 1 a source or the disk failed, 2 wrong usage, 130 Ctrl-C, 143 SIGTERM; what is
whole by then stays. collect ends by Ctrl-C, with 0.
"""


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="astuner traces",
        description="Bring what deployed agents did into one shape, whoever recorded it; receive "
        "it; count what is in it; and write own episodes as other programs read them.",
        epilog=_EPILOG.replace("{formats}", _formats()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("action", choices=("import", "export", "stats", "collect"))
    parser.add_argument(
        "places",
        nargs="*",
        metavar="SOURCE | RUN",
        help="import, stats: a file, a folder or a URL; export: a run directory, or a run as "
        "`astuner show` names it",
    )
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", help="where it goes (import, export, collect)"
    )
    parser.add_argument(
        "--unmasked",
        action="store_true",
        help="import, collect: write personal data and secrets as they are",
    )
    _add_reading(parser)
    _add_export(parser)
    _add_collect(parser)
    return parser


def _add_reading(parser: argparse.ArgumentParser) -> None:
    reading = parser.add_argument_group("import and stats")
    reading.add_argument("--format", metavar="F", help="of the sources; one of those below")
    reading.add_argument(
        "--project", metavar="P", help="of a server: the project or experiment (default: all)"
    )
    reading.add_argument(
        "--since",
        type=_since,
        metavar="TIME",
        help="leave out what began before, as 2026-01-31, 2026-01-31T09:30, 12h, 30d or 8w ago",
    )
    reading.add_argument(
        "--preview",
        type=_count,
        metavar="N",
        help="import: print the first N conversations as they would be written, and write nothing",
    )
    reading.add_argument("--json", action="store_true", help="stats: the counts as JSON")


def _add_export(parser: argparse.ArgumentParser) -> None:
    export = parser.add_argument_group("export")
    export.add_argument("--to", choices=("atif", "otlp"), help="the format")
    export.add_argument(
        "--step", type=_count, metavar="N", help="of this step and its validation (default: all)"
    )
    export.add_argument(
        "--exp-dir",
        type=Path,
        default=Path("launcher_record"),
        metavar="DIR",
        help="folder of the runs (default: launcher_record)",
    )


def _add_collect(parser: argparse.ArgumentParser) -> None:
    collect = parser.add_argument_group("collect")
    collect.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen at (default: 127.0.0.1, which no other machine reaches)",
    )
    collect.add_argument(
        "--port", type=_port, default=4318, help="0: any that is free (default: 4318)"
    )
    collect.add_argument(
        "--token", metavar="T", help="that senders have to show; all who list processes see it"
    )
    collect.add_argument(
        "--token-env", metavar="NAME", help="the variable of the environment that holds it"
    )
    collect.add_argument(
        "--allowed-host",
        action="append",
        default=[],
        metavar="NAME",
        help="another name by which senders call it, such as that of a container; may be repeated",
    )
    collect.add_argument(
        "--max-body-mb", type=_count, default=32, metavar="N", help="of one request (default: 32)"
    )
    collect.add_argument(
        "--max-mb",
        type=_count,
        metavar="N",
        help="of the whole folder; the oldest files go (default: all is kept)",
    )
    collect.add_argument(
        "--drain-seconds",
        type=float,
        default=30.0,
        metavar="S",
        help="what requests under way may take at the end (default: 30)",
    )


def run(parsed: argparse.Namespace) -> int:
    from astuner import log
    from astuner.console import RunConsole, open_screen

    _check(parsed)
    if parsed.action == "collect":
        with log.install(None, "WARNING"):
            return _collect(parsed)
    actions = {"import": _import, "export": _export, "stats": _stats}
    screen = open_screen()
    with log.install(None, "WARNING", console=screen), RunConsole(screen, is_live=True) as shown:
        return actions[parsed.action](parsed, shown)


def _check(parsed: argparse.Namespace) -> None:
    """Raises ConfigError for what is missing, and what another action takes."""
    action = parsed.action
    if bool(parsed.places) == (action == "collect"):
        found = f"{action} takes no SOURCE" if parsed.places else f"{action} wants a SOURCE or RUN"
        raise ConfigError(f"traces: {found}; `astuner traces --help` has examples")
    needs_out = action in ("export", "collect") or (action == "import" and not parsed.preview)
    if needs_out and parsed.out is None:
        raise ConfigError(f"traces {action}: where to? Name a folder by --out")
    if action == "export" and parsed.to is None:
        raise ConfigError("traces export: in which format? Give --to atif or --to otlp")
    for given, flag, owners in (
        (parsed.preview, "--preview", ("import",)),
        (parsed.unmasked, "--unmasked", ("import", "collect")),
        (parsed.since, "--since", ("import", "stats")),
        (parsed.format, "--format", ("import", "stats")),
        (parsed.project, "--project", ("import", "stats")),
        (parsed.json, "--json", ("stats",)),
        (parsed.to, "--to", ("export",)),
        (parsed.step, "--step", ("export",)),
        (parsed.token or parsed.token_env, "--token", ("collect",)),
    ):
        if given and action not in owners:
            raise ConfigError(f"traces {action}: {flag} is for {' and '.join(owners)} only")


def _import(parsed: argparse.Namespace, console: "RunConsole") -> int:
    from astuner.traces.importing import as_it_is, importing_to, masking
    from astuner.traces.mask_key import mask_key
    from astuner.traces.sheets import import_sheet

    if parsed.preview:
        return _preview(parsed, console)
    sources = _sources(parsed, console)
    with importing_to(parsed.out) as one:
        mask = None if parsed.unmasked else _mask(mask_key(parsed.out))
        change = as_it_is if mask is None else masking(mask.masked)
        try:
            for source in sources:
                one.take(source, change=change, since=parsed.since)
        finally:
            one.close()
            console.status("")
            write_out(import_sheet(one.counts, None if mask is None else mask.kinds))
    console.say(f"imported to {parsed.out}")
    return 0


def _preview(parsed: argparse.Namespace, console: "RunConsole") -> int:
    from itertools import islice

    from astuner.traces.importing import read_all
    from astuner.traces.reading import Unread
    from astuner.traces.sheets import trace_sheet

    mask = None if parsed.unmasked else _mask(secrets.token_bytes(32))
    unread = Unread()
    num_shown = 0
    for trace in islice(
        read_all(_sources(parsed, console), unread, since=parsed.since), parsed.preview
    ):
        num_shown += 1
        if not write_out(f"{trace_sheet(mask.masked(trace) if mask else trace)}\n"):
            return 0
    write_out(f"{num_shown} shown, nothing is written\n")
    return 0


def _stats(parsed: argparse.Namespace, console: "RunConsole") -> int:
    from astuner.traces.importing import read_all
    from astuner.traces.reading import Unread
    from astuner.traces.sheets import stats_sheet
    from astuner.traces.stats import TraceStats, stats_as_json

    stats, unread = TraceStats(), Unread()
    for trace in read_all(_sources(parsed, console), unread, since=parsed.since):
        stats.add(trace)
    if parsed.json:
        text = json.dumps(stats_as_json(stats, unread)).replace("\x7f", "\\u007f")
        write_out(f"{text}\n")
    else:
        write_out(stats_sheet(stats, unread))
    return 0


def _export(parsed: argparse.Namespace, console: "RunConsole") -> int:
    from astuner import __version__
    from astuner.traces.writers.folder import check_new, export_traces

    check_new(parsed.out)
    files = [
        (root, path)
        for root in dict.fromkeys(root for place in parsed.places for root in _roots(place, parsed))
        for path in _episode_files(root, parsed.step)
    ]
    if not files:
        at = "" if parsed.step is None else f" of step {parsed.step}"
        raise ConfigError(f"traces export: there are no episodes{at}; `astuner show` lists some")
    written = export_traces(
        _episodes(files, console),
        parsed.out,
        parsed.to,
        version=__version__,
        tell=lambda at: console.status(f"{at.num_episodes:,} episodes written"),
    )
    write_out(
        f"{written.num_traces:,} conversations of {written.num_episodes:,} episodes as "
        f"{parsed.to} in {parsed.out}, with all that was said\n"
    )
    return 0


def _episodes(files: list[tuple[Path, Path]], console: "RunConsole") -> "Iterator[Trace]":
    """Of each run, what is in the folder or file; what cannot be read is told."""
    from astuner.traces.importing import read_all
    from astuner.traces.reading import Unread
    from astuner.traces.sources.known import open_source
    from astuner.traces.writers.folder import named_by_run

    unread = Unread()
    for root, path in files:
        source = open_source(str(path), format="run_dir")
        run_name = f"{root.parent.name}_{root.name}" if root.parent.name else root.name
        yield from named_by_run(read_all([source], unread), run_name)
    for reason, number in unread.counts.items():
        console.warn(f"not read, {number} times: {reason}; first {unread.places[reason]}")


def _roots(place: str, parsed: argparse.Namespace) -> list[Path]:
    from astuner.logview.terminal.choose import choose_runs
    from astuner.run_dir import RunDir

    path = Path(place).expanduser()
    if RunDir(root=path).episodes_dir.is_dir():
        return [path.resolve()]
    runs = choose_runs(place, parsed.exp_dir)
    for found in runs:
        found.index.close()
    return [found.root.resolve() for found in runs]


def _episode_files(root: Path, step: int | None) -> list[Path]:
    from astuner.run_dir import RunDir

    found = RunDir(root=root)
    if step is None:
        return [root]
    paths = [found.episodes_file(step, "train"), found.episodes_file(step, "validation")]
    return [path for path in paths if path.is_file()]


def _sources(parsed: argparse.Namespace, console: "RunConsole") -> "list[TraceSource]":
    """All of them, so that a wrong one is told before any is read."""
    from astuner.traces.sources.known import open_source

    return [
        open_source(
            place,
            format=parsed.format,
            project=parsed.project,
            progress=lambda number, place=place: console.status(
                f"{place}: {number:,} spans, events and traces read"
            ),
        )
        for place in parsed.places
    ]


def _mask(key: bytes) -> "TraceMask":
    from astuner.trace_tasks.masking import TraceMask
    from astuner.traces.private_text import PrivateMask

    private = PrivateMask(wanted_by="traces import", instead="give --unmasked")
    return TraceMask(private, key=key)


def _collect(parsed: argparse.Namespace) -> int:
    number = asyncio.run(_serve(parsed))
    if number != signal.SIGINT:
        raise Quit(number)
    return 0  # Ctrl-C is how it is meant to end


async def _serve(parsed: argparse.Namespace) -> int:
    from astuner.collecting.collector import (
        Collector,
        CollectorOptions,
        is_reached_from_elsewhere,
        listen_for_exporters,
    )
    from astuner.collecting.life import collect
    from astuner.collecting.writing import ExportWriter, KeepingOptions

    token, max_bytes = _token(parsed), parsed.max_body_mb * 1_000_000
    keeping = KeepingOptions(
        folder=parsed.out,
        is_masked=not parsed.unmasked,
        max_mb=parsed.max_mb,
        max_body_bytes=max_bytes,
    )
    listening = listen_for_exporters(parsed.host, parsed.port)
    if token is None and is_reached_from_elsewhere(listening):
        _say(
            f"WARNING: --host {parsed.host} is reached by other machines and no token is asked "
            "for: whoever reaches it can write to this disk. Give --token-env NAME"
        )
    options = CollectorOptions(
        host=parsed.host, token=token, max_body_bytes=max_bytes, allowed_hosts=parsed.allowed_host
    )
    try:
        writer = ExportWriter(keeping)
    except BaseException:
        listening.close()
        raise
    collector = Collector(options, listening, writer)
    number = await collect(
        collector,
        next_signal=awaited_signal,
        drain_seconds=parsed.drain_seconds,
        on_ready=lambda address: _tell(address, parsed, has_token=token is not None),
        say=_say,
    )
    _say(_told(collector))
    return number


def _tell(address: str, parsed: argparse.Namespace, *, has_token: bool) -> None:
    masked = "AS THEY ARE, personal data and secrets included" if parsed.unmasked else "masked"
    header = "\n  OTEL_EXPORTER_OTLP_HEADERS=authorization=Bearer%20TOKEN" if has_token else ""
    _say(
        f"{address} takes traces and logs of OTLP over HTTP; they go to {parsed.out}, {masked}\n"
        f"for an agent:\n  OTEL_EXPORTER_OTLP_ENDPOINT={address}\n"
        f"  OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf{header}\n"
        f"AgentScope: agentscope.init(tracing_url='{address}/v1/traces')\n"
        "Ctrl-C ends it"
    )


def _told(collector: "Collector") -> str:
    counts = ", ".join(f"{number:,} {name}" for name, number in collector.counts.items())
    return f"ended: {counts or 'nothing came'}"


def _say(text: str) -> None:
    print(f"astuner traces collect: {text}", flush=True)


def _token(parsed: argparse.Namespace) -> str | None:
    if parsed.token and parsed.token_env:
        raise ConfigError("traces collect: --token and --token-env are both given; leave one out")
    if parsed.token_env and not os.environ.get(parsed.token_env):
        name = parsed.token_env
        raise ConfigError(f"traces collect: --token-env {name}: there is no {name}; set it")
    token = os.environ[parsed.token_env] if parsed.token_env else parsed.token
    if token is not None and (not token.isascii() or not token.strip() or " " in token):
        raise ConfigError(
            "traces collect: the token is empty, or has a space or no ASCII, which no header can "
            "hold; give another"
        )
    return token


def _formats() -> str:
    from astuner.traces.sources.known import SOURCES

    indent = " " * 14
    return "\n".join(
        textwrap.fill(source.what, 96, initial_indent=f"  {name:12}", subsequent_indent=indent)
        for name, source in SOURCES.items()
    )


def _since(text: str) -> float:
    """Seconds since 1970; a time without a zone is of this machine's."""
    if found := re.fullmatch(r"(\d{1,6})([hdw])", text):
        return time.time() - int(found[1]) * _SECONDS[found[2]]
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError) as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no time; write 2026-01-31, 2026-01-31T09:30, 12h, 30d or 8w"
        ) from error


def _count(text: str) -> int:
    if not re.fullmatch(r"[1-9]\d{0,8}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no number; write 1, 2 …")
    return int(text)


def _port(text: str) -> int:
    if not re.fullmatch(r"\d{1,5}", text) or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port; write 0 to 65535")
    return int(text)
