"""What a list of episodes shows of each: the facts of a record that the index keeps."""

import reprlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from astuner.logview.reading.cache import LARGEST_INTEGER
from astuner.logview.reading.lines import shown
from astuner.trajectory.record import RECORD_FORMAT
from astuner.types import finite_number

_TITLE_SIGNS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeRow:
    """One episode in a list, and where its record lies.

    Text that holds lone surrogates has their escapes in place of them. Of a record that cannot be
    read only its place, its id where it tells one, and the `problem` are known.
    """

    episode_id: str
    """Unique in a run; of a record that tells none, its file and offset."""
    step: int
    is_validation: bool
    task_id: str
    attempt: int
    """Its index in the group; counts from 0."""
    title: str
    """The beginning of the question, on one line."""
    reward: float | None
    is_success: bool | None
    failure: str | None
    """The kind of error with the first line of its message; None for an episode that was judged."""
    agents: tuple[str, ...]
    tools: tuple[str, ...]
    """Those that were called, in the order of their first calls."""
    num_calls: int
    num_sequences: int
    num_breaks: int
    """Calls of trained agents that start a sequence behind their first."""
    num_sampled_tokens: int
    """By the agents that are trained."""
    num_trained_tokens: int
    seconds: float | None
    """Wall time from start to end, with judging."""
    madness: str | None
    """The check that a reply failed, with its reason, on one line."""
    file: str
    """Name of its file in `episodes/`."""
    offset: int
    length: int
    """Of its line, in bytes, the end included."""
    problem: str | None
    """Why the record cannot be read, in words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a record stands, which its file tells."""

    step: int
    is_validation: bool
    file: str
    offset: int
    length: int


def row_of(record: Mapping[str, Any], place: Place) -> EpisodeRow:
    """The facts of a record; see `skim`. One that is not whole gives a row that says so."""
    record_format = record.get("format", 1)
    episode_id = record.get("episode_id")
    name = episode_id if isinstance(episode_id, str) else None
    if not isinstance(record_format, int) or record_format > RECORD_FORMAT:
        return unreadable_row(place, newer_format(record_format), episode_id=name)
    try:
        return _row_of_known(record, place)
    except KeyError as error:
        problem = f"the record is not whole: {error.args[0]!r} is missing"
    except (TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        problem = f"the record is not whole: {error}"
    return unreadable_row(place, shown(problem), episode_id=name)


def too_long(num_bytes: int, max_bytes: int) -> str:
    """What there is to say of a line that is not read."""
    return (
        f"its line has {num_bytes:,} bytes, and lines of up to {max_bytes:,} are read: look at it "
        "with other tools, such as jq"
    )


def newer_format(record_format: object) -> str:
    """What there is to say of a record of a format that is not known."""
    return (
        f"recorded in format {reprlib.repr(record_format)}; this version of astuner reads up to "
        f"{RECORD_FORMAT}: open it with the version that wrote it, or a newer one"
    )


def unreadable_row(place: Place, problem: str, *, episode_id: str | None = None) -> EpisodeRow:
    """What is known of a record that cannot be read."""
    return EpisodeRow(
        episode_id=f"{place.file}@{place.offset}" if episode_id is None else shown(episode_id),
        step=place.step,
        is_validation=place.is_validation,
        task_id="",
        attempt=0,
        title="",
        reward=None,
        is_success=None,
        failure=None,
        agents=(),
        tools=(),
        num_calls=0,
        num_sequences=0,
        num_breaks=0,
        num_sampled_tokens=0,
        num_trained_tokens=0,
        seconds=None,
        madness=None,
        file=place.file,
        offset=place.offset,
        length=place.length,
        problem=problem,
    )


def _row_of_known(record: Mapping[str, Any], place: Place) -> EpisodeRow:
    calls, task = record["calls"], record["task"]
    verdict = record["verdict"] or {}
    trained = [call for call in calls if call.get("is_trained", True)]
    sequences = record.get("sequences") or ()
    return EpisodeRow(
        episode_id=shown(record["episode_id"]),
        step=place.step,
        is_validation=place.is_validation,
        task_id=shown(task["task_id"]),
        attempt=_count(record["attempt"]),
        title=title_of(task["main_query"]),
        reward=finite_number(verdict.get("reward")),
        is_success=_truth(verdict.get("is_success")),
        failure=_failure(record["failure"]),
        agents=_agents(record, calls),
        tools=_tools(calls),
        num_calls=len(calls),
        num_sequences=len(sequences),
        num_breaks=sum(call["break_reason"] is not None for call in trained),
        num_sampled_tokens=sum(map(_num_sampled, trained)),
        num_trained_tokens=_count(_num_trained(sequences)),
        seconds=finite_number(record["seconds"]),
        madness=None if record["madness"] is None else title_of(str(record["madness"])),
        file=place.file,
        offset=place.offset,
        length=place.length,
        problem=None,
    )


def title_of(text: str) -> str:
    """The beginning of a text on one line, with an ellipsis where there is more."""
    line = " ".join(text[: 4 * _TITLE_SIGNS].split())
    is_cut = len(line) > _TITLE_SIGNS or len(text) > 4 * _TITLE_SIGNS
    return shown(f"{line[:_TITLE_SIGNS]}…" if is_cut else line)


def _agents(record: Mapping[str, Any], calls: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """Format 1 names them in the calls only."""
    named = [name for name, _tag, _is_trained in record.get("agents") or ()]
    return _distinct(named or [call["agent_name"] for call in calls])


def _tools(calls: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    wanted = [wanted for call in calls for wanted in call["reply"].get("tool_calls") or ()]
    return _distinct(str(one["function"]["name"]) for one in wanted)


def _distinct(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(shown(name).replace(SEPARATOR, "\ufffd") for name in names))


def _failure(failure: Mapping[str, Any] | None) -> str | None:
    if failure is None:
        return None
    first_line = str(failure["message"]).strip().partition("\n")[0]
    return f"{shown(str(failure['kind']))}: {title_of(first_line)}"


def _num_trained(sequences: Iterable[Mapping[str, Any]]) -> int:
    spans = (span for sequence in sequences for span in sequence["spans"])
    return sum(span["length"] for span in spans if span["is_trained"])


def _num_sampled(call: Mapping[str, Any]) -> int:
    """As a server counted them where no ids are known."""
    counted = call.get("counted_tokens")
    return _count(counted[1]) if counted else _num_ids(call["completion_ids"])


def _num_ids(ids: Sequence[int] | memoryview) -> int:
    """Of a list of numbers, or of its JSON text where it was not read."""
    if isinstance(ids, list):
        return len(ids)
    text = bytes(ids)
    return 0 if not text.strip(b"[] \t") else text.count(b",") + 1


def _count(value: Any) -> int:
    if not isinstance(value, int) or not abs(value) <= LARGEST_INTEGER:
        raise ValueError(f"{value!r} is no count")
    return int(value)


def _truth(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


ROW_COLUMNS = tuple(field.name for field in fields(EpisodeRow) if field.name != "file")
"""The columns of the index that hold a row; its file is a row of another table."""

_LISTS = ("agents", "tools")
_TRUTHS = ("is_validation", "is_success")
SEPARATOR = "\x1f"
"""Stands before, between and behind the names of a list in the index; no name has it."""


def to_values(row: EpisodeRow) -> list[Any]:
    """A row as the values of `ROW_COLUMNS`."""
    return [
        _joined(getattr(row, name)) if name in _LISTS else getattr(row, name)
        for name in ROW_COLUMNS
    ]


def _joined(names: Sequence[str]) -> str:
    return "".join(f"{SEPARATOR}{name}" for name in (*names, "")) if names else ""


def from_values(values: Sequence[Any], file: str) -> EpisodeRow:
    """The row that `to_values` made values of."""
    known = dict(zip(ROW_COLUMNS, values, strict=True))
    known |= {name: tuple(known[name].split(SEPARATOR)[1:-1]) for name in _LISTS}
    known |= {name: None if known[name] is None else bool(known[name]) for name in _TRUTHS}
    return EpisodeRow(**known, file=file)
