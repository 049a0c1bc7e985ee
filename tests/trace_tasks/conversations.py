"""Traces of a small shop's agent, and what makes tasks of them in a folder."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from astuner.config.load import packaged_section
from astuner.config.sections.llm import LlmSettings
from astuner.config.trace_steps import planned_steps
from astuner.llm import LanguageModel
from astuner.trace_tasks.known_steps import StepMaterial
from astuner.trace_tasks.known_task import KnownTask
from astuner.trace_tasks.making import TracedOutcome, TracingOrder, make_traced_tasks
from astuner.trace_tasks.traced_files import TracedFiles
from astuner.traces.reading import Cursor, Unread
from astuner.traces.trace import Origin, Step, Trace, TraceFeedback

NOW = 1_800_000_000.0
ORIGIN = Origin(source="otlp", address="spans.jsonl")


def said(*texts: str, spans: str = "s", started: float | None = None) -> tuple[Step, ...]:
    """What a user and an agent say in turns; answers have the spans s1, s2 and so on."""
    return tuple(
        Step(role="user", text=text, started=started)
        if number % 2 == 0
        else Step(role="assistant", text=text, span_id=f"{spans}{number // 2 + 1}", model="m")
        for number, text in enumerate(texts)
    )


def trace(name: str, steps: Sequence[Step], **fields: Any) -> Trace:
    return Trace(**{"trace_id": name, "steps": steps, "origin": ORIGIN, **fields})


def shop(number: int, **fields: Any) -> Trace:
    """One question of a session and a user of its own."""
    steps = said(
        f"Where is my parcel {number}?", f"At depot {number}.", started=NOW - 1000 + number
    )
    return trace(f"t{number}", steps, **{"session": f"shop{number}", **fields})


def liked(score: float, **fields: Any) -> TraceFeedback:
    return TraceFeedback(**{"name": "user_feedback", "score": score, "by": "human", **fields})


class TracesInMemory:
    """A place whose traces a test changes."""

    def __init__(self, traces: Sequence[Trace], *, unread: Mapping[str, str] | None = None) -> None:
        self.traces = list(traces)
        self.num_reads = 0
        self._unread = unread or {}

    def read(self, unread: Unread) -> Iterator[Trace]:
        self.num_reads += 1
        for reason, place in self._unread.items():
            unread.add(reason, place)
        yield from self.traces

    def state(self) -> Any:
        return hashlib.sha256(repr(self.traces).encode()).hexdigest()

    def cursor(self) -> Cursor:
        return {}

    def has_news(self, since: Cursor) -> bool:
        raise AssertionError("its state tells")


def no_model(max_parallel: int) -> LanguageModel:
    raise AssertionError(f"no step asks {max_parallel} times")


def order_of(
    folder: Path,
    place: TracesInMemory,
    *filters: Mapping[str, Any],
    open_model: Callable[[int], LanguageModel] = no_model,
    say: Callable[[str], None] = lambda _: None,
    address: str = "spans.jsonl",
) -> TracingOrder:
    def material(known: Mapping[str, KnownTask]) -> StepMaterial:
        return StepMaterial(
            known=known,
            open_model=open_model,
            embedding=packaged_section("task_reader")["data_generation"]["filter"]["params"],
            home=folder,
            llm=LlmSettings.model_validate(packaged_section("llm")),
            say=say,
        )

    return TracingOrder(
        key="astuner.task_reader.feedback_tracing",
        places={address: place},
        planned=planned_steps(filters),
        settings={"filters": [dict(one) for one in filters]},
        files=TracedFiles(folder / "tasks.jsonl"),
        make_material=material,
    )


async def make(order: TracingOrder) -> TracedOutcome:
    return await make_traced_tasks(
        order, watch=lambda *_: None, say=lambda _: None, now=lambda: NOW
    )


def rows_of(order: TracingOrder) -> list[dict[str, Any]]:
    return [row for _, row in order.files.rows()]
