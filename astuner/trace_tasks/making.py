"""From traces to files of tasks: reads, masks, sends each through the steps, and writes what is
left beside what is there already.

Traces are taken as they come; what grows with their number is a few words for each task.
"""

import asyncio
import contextlib
import hashlib
import json
import secrets
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from astuner.config.secret import mask_text
from astuner.config.trace_steps import PlannedStep, PlannedSteps
from astuner.errors import TaskReadError
from astuner.run_dir import json_line
from astuner.task_generation.draft import SIDES, Side
from astuner.trace_tasks.candidate import Candidate
from astuner.trace_tasks.found import TracePlace
from astuner.trace_tasks.known_steps import StepMaterial, open_step
from astuner.trace_tasks.known_task import KnownTask
from astuner.trace_tasks.masking import TraceMask
from astuner.trace_tasks.sheet import counts_sheet, dropped_line
from astuner.trace_tasks.sides import SidedTurn, SplitTurns, TraceSides, read_sides, split_turns
from astuner.trace_tasks.step import Candidates, StepCount
from astuner.trace_tasks.steps.llm_evaluate import NO_VERDICT
from astuner.trace_tasks.task_row import task_of
from astuner.trace_tasks.traced_files import TracedFiles, TracedManifest, open_private
from astuner.trace_tasks.turn_ids import session_digest, session_of_task
from astuner.traces.private_text import PrivateMask
from astuner.traces.reading import Unread
from astuner.traces.trace import Trace

_FORMAT = 1
_TRACES_AT_A_TIME = 32
"""Read and masked in a thread between two looks at the event loop."""
_FUTURE_SECONDS = 3600.0
"""A clock may be so far ahead; a later time is no time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TracingOrder:
    """Tasks that a configuration asks for."""

    key: str
    """Where its settings stand."""
    places: Mapping[str, TracePlace]
    """By address."""
    planned: PlannedSteps
    settings: Mapping[str, Any]
    """What makes tasks other ones, beside the places; without secrets."""
    files: TracedFiles
    make_material: Callable[[Mapping[str, KnownTask]], StepMaterial]


@dataclass(frozen=True, slots=True, kw_only=True)
class TracedOutcome:
    """What came of it."""

    num_of_side: Mapping[Side, int]
    num_new: int
    num_without_reference: int
    num_unread: int
    sheet_file: Path


@dataclass(slots=True, kw_only=True)
class _Made:
    """What one making has found so far; the rows themselves are on disk."""

    turns: dict[str, SidedTurn] = field(default_factory=dict)
    """By the id of the task, in the order of the rows."""
    read_sessions: set[str] = field(default_factory=set)
    """Digests."""
    num_traces: int = 0
    num_without_reference: int = 0
    notes: Counter[str] = field(default_factory=Counter)
    unread: Unread = field(default_factory=Unread)


def is_made(order: TracingOrder) -> bool:
    """Whether the files agree with the settings and with what is in all places now."""
    manifest = order.files.read_manifest()
    if manifest is None or not manifest.is_whole or not order.files.training_file.is_file():
        return False
    if manifest.format != _FORMAT or manifest.settings != _plain(order.settings):
        return False
    read = {place["address"]: place for place in manifest.places}
    return all(
        digest in read and _is_as_read(place, read[digest])
        for digest, place in _digested(order).items()
    )


async def make_traced_tasks(
    order: TracingOrder,
    *,
    watch: Callable[[int, int], None],
    say: Callable[[str], None],
    now: Callable[[], float] = time.time,
) -> TracedOutcome:
    """Make the tasks of an order, or add what is new.

    Tasks of sessions that are not read any more stay; those of sessions that are read are what the
    steps say now. With other settings than before all is made anew, and what was there moves to
    `earlier/`; sides stay all the same. `watch` is told the numbers of traces and tasks so far.

    Raises TaskReadError where there is no trace, or no task is left; TraceSourceError,
    LlmBudgetError and ConfigError as their sources do. Until the end nothing that was there is
    touched.
    """
    files = order.files
    with files.in_use():
        files.check_are_ours()
        manifest = files.read_manifest()
        is_same = manifest is not None and manifest.settings == _plain(order.settings)
        known = _known_tasks(files) if is_same else {}
        sides = read_sides(files.sides_file, new_key=lambda: secrets.token_hex(16))
        material = order.make_material(known)
        made, counts = _Made(), [_count_of("read"), *map(_count_of_step, order.planned.steps)]
        with open_private(files.rows_file) as rows:
            left = _through_steps(order, material, made, counts, sides)
            async with contextlib.aclosing(left):
                async for candidate in left:
                    _write_row(candidate, rows, made, sides, now())
                    watch(made.num_traces, len(made.turns))
        return _settled(order, made, counts, known, sides, manifest, say)


async def _through_steps(
    order: TracingOrder,
    material: StepMaterial,
    made: _Made,
    counts: Sequence[StepCount],
    sides: TraceSides,
) -> Candidates:
    """What is left behind all of them. Whatever ends it, each step ends before the one that it
    takes candidates from."""
    mask = _mask(order, bytes.fromhex(sides.key)) if order.planned.is_masked else None
    async with contextlib.AsyncExitStack() as stack:
        candidates = _candidates(order, made, counts[0], mask)
        stack.push_async_callback(candidates.aclose)
        for planned, count in zip(order.planned.steps, counts[1:], strict=True):
            candidates = (await open_step(planned, material))(candidates, count)
            stack.push_async_callback(candidates.aclose)
        async for candidate in candidates:
            yield candidate


def _mask(order: TracingOrder, key: bytes) -> TraceMask:
    instead = "write {type: mask, enabled: false} in filters"
    return TraceMask(PrivateMask(wanted_by=order.key, instead=instead), key=key)


async def _candidates(
    order: TracingOrder, made: _Made, count: StepCount, mask: TraceMask | None
) -> Candidates:
    """All traces that hold a message, masked. One thread reads, since databases want that."""
    traces = _traces(order, made.unread, mask)
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="traces") as reader:
        try:
            while batch := await loop.run_in_executor(
                reader, lambda: [*islice(traces, _TRACES_AT_A_TIME)]
            ):
                for trace in batch:
                    count.num_in += 1
                    made.num_traces += 1
                    made.read_sessions.add(session_digest(trace))
                    if any(step.role == "user" for step in trace.steps):
                        count.num_out += 1
                        yield Candidate(trace=trace)
                    else:
                        count.drop("no user says anything" if trace.steps else "it is empty")
        finally:
            reader.submit(traces.close)
    if mask is not None:
        made.notes.update({f"traces with [{kind}]": n for kind, n in mask.kinds.items()})


def _traces(
    order: TracingOrder, unread: Unread, mask: TraceMask | None
) -> Generator[Trace, None, None]:
    for place in order.places.values():
        for trace in place.read(unread):
            yield trace if mask is None else mask.masked(trace)


def _write_row(candidate: Candidate, rows: Any, made: _Made, sides: TraceSides, now: float) -> None:
    task = task_of(candidate)
    if task.task_id in made.turns:
        made.notes["turns that stand in several traces"] += 1
        return
    asked = task.metadata.get("asked")
    if asked is not None and asked > now + _FUTURE_SECONDS:
        made.notes["times in the future, taken for unknown"] += 1
        task.metadata.pop("asked")
        asked = None
    if candidate.reference is None:
        made.num_without_reference += 1
    if task.metadata.get("num_left_out"):
        made.notes["tasks with placeholders for pictures, sounds or files"] += 1
    user = candidate.trace.user
    made.turns[task.task_id] = SidedTurn(
        session=session_of_task(task.task_id),
        user=None if user is None else _keyed(user, sides.key),
        asked=asked,
    )
    rows.write(json_line(task.model_dump(), where=task.task_id))


def _settled(
    order: TracingOrder,
    made: _Made,
    counts: Sequence[StepCount],
    known: Mapping[str, KnownTask],
    sides: TraceSides,
    manifest: TracedManifest | None,
    say: Callable[[str], None],
) -> TracedOutcome:
    """Everything is read: decide the sides, and write."""
    kept = {
        task_id: task
        for task_id, task in known.items()
        if task_id not in made.turns and session_of_task(task_id) not in made.read_sessions
    }
    if not made.turns and not kept:
        raise _nothing_left(order, made, counts)
    of_kept = [
        SidedTurn(session=session_of_task(task_id), user=None, asked=None) for task_id in kept
    ]
    split = split_turns([*made.turns.values(), *of_kept], sides, order.planned.split)
    if split.num_torn:
        say(f"{split.num_torn} users have sessions on several sides, put there before; they stay")
    num_of_side = Counter(split.of_session[session_of_task(one)] for one in [*made.turns, *kept])
    num_by_side: dict[Side, int] = {side: num_of_side[side] for side in SIDES}
    if manifest is not None and not known:
        say(f"tasks of other settings: moved to {order.files.move_away()}")
    order.files.write(
        lines=_lines(order.files, made, kept, split),
        sides=split.sides.model_dump_json(indent=2) + "\n",
        sheet=counts_sheet(counts, num_by_side, made.unread, made.notes),
        manifest=_manifest(order, made, counts, num_by_side),
    )
    return TracedOutcome(
        num_of_side=num_by_side,
        num_new=len(made.turns.keys() - known.keys()),
        num_without_reference=made.num_without_reference,
        num_unread=made.unread.counts.total(),
        sheet_file=order.files.sheet_file,
    )


def _lines(
    files: TracedFiles, made: _Made, kept: Mapping[str, KnownTask], split: SplitTurns
) -> Iterator[tuple[Side, bytes]]:
    """What stays first, in its order, then what was made now."""
    if kept:
        for _, row in files.rows():
            if row["task_id"] in kept:
                side = split.of_session[session_of_task(row["task_id"])]
                yield side, json_line(row, where=row["task_id"])
    with files.rows_file.open("rb") as rows:
        for task_id, line in zip(made.turns, rows, strict=True):
            yield split.of_session[session_of_task(task_id)], line


def _nothing_left(order: TracingOrder, made: _Made, counts: Sequence[StepCount]) -> TaskReadError:
    places = mask_text(", ".join(order.places))
    unread = mask_text(
        "".join(
            f"; {number} rows were not read: {reason}, first at {made.unread.places[reason]}"
            for reason, number in made.unread.counts.most_common(3)
        )
    )
    if not made.num_traces:
        return TaskReadError(
            f"{order.key}.base_url: there is no trace in {places}{unread}; name another place, or "
            "the format of this one in format"
        )
    return TaskReadError(
        f"{order.key}.filters: of {made.num_traces} traces in {places} no task is left: "
        f"{dropped_line(counts)}{unread}; loosen the step that dropped most"
    )


def _manifest(
    order: TracingOrder, made: _Made, counts: Sequence[StepCount], num_of_side: Mapping[Side, int]
) -> dict[str, Any]:
    return {
        "format": _FORMAT,
        "settings": _plain(order.settings),
        "places": [
            {"address": digest, "state": place.state(), "cursor": dict(place.cursor())}
            for digest, place in _digested(order).items()
        ],
        "is_whole": not any(count.dropped[NO_VERDICT] for count in counts),
        "num_tasks": dict(num_of_side),
        "num_without_reference": made.num_without_reference,
        "steps": [
            {
                "name": count.name,
                "num_in": count.num_in,
                "num_out": count.num_out,
                "dropped": dict(count.dropped),
                "notes": dict(count.notes),
            }
            for count in counts
        ],
        "unread": {mask_text(reason): n for reason, n in made.unread.counts.items()},
        "notes": dict(made.notes),
    }


def _known_tasks(files: TracedFiles) -> dict[str, KnownTask]:
    return {row["task_id"]: KnownTask.of(row, side) for side, row in files.rows()}


def _is_as_read(place: TracePlace, read: Mapping[str, Any]) -> bool:
    state = place.state()
    return state == read["state"] if state is not None else not place.has_news(read["cursor"])


def _digested(order: TracingOrder) -> dict[str, TracePlace]:
    """By a digest of the address, which may hold a password."""
    return {
        hashlib.sha256(address.encode()).hexdigest()[:32]: place
        for address, place in order.places.items()
    }


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(settings))


def _keyed(text: str, key: str) -> str:
    data = text.encode(errors="replace")
    return hashlib.blake2b(data, key=bytes.fromhex(key), digest_size=8).hexdigest()


def _count_of(name: str) -> StepCount:
    return StepCount(name=name)


def _count_of_step(step: PlannedStep) -> StepCount:
    return StepCount(name=step.type)
