"""What `GET /metrics` of a model server says, in the text format of Prometheus.

Counts calls as they end; what holds at the moment is asked for when somebody scrapes. Labels have
few values, whatever clients send: a model that is not served here is `other`.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from astuner.backbone.prometheus import CONTENT_TYPE, PATH, escaped, quoted, shown_number
from astuner.model_server.answer_ids import bare_id
from astuner.model_server.served_call import ServedCall

OTHER = "other"
_PREFIX = "astuner_serve_"
_WHOLE_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
_FIRST_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)

Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterReading:
    """One number at the moment of a scrape."""

    name: str
    """Behind `astuner_serve_`, as running_sequences."""
    told: str
    """What it is, for HELP."""
    value: float
    kind: Literal["gauge", "counter"] = "gauge"
    labels: Mapping[str, str] | None = None


ReadMeters = Callable[[], Iterable[MeterReading]]
"""Those of one name follow each other."""


class _Histogram:
    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def note(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def lines(self, name: str, labels: Labels) -> Iterator[str]:
        total = 0
        for bound, count in zip((*self._bounds, float("inf")), self._counts, strict=True):
            total += count
            yield _sample(f"{name}_bucket", (*labels, ("le", shown_number(bound))), total)
        yield _sample(f"{name}_sum", labels, self._sum)
        yield _sample(f"{name}_count", labels, total)


class CallMetrics:
    """Of one server. An observer of calls; see `CallObserver`. Used by one thread."""

    def __init__(self, *, paths: Collection[str], meters: Iterable[ReadMeters] = ()) -> None:
        """`paths` are those that models are asked at; `meters` are read at each scrape."""
        self._paths = frozenset(paths)
        self._meters = tuple(meters)
        self._requests: dict[Labels, int] = defaultdict(int)
        self._prompt_tokens: dict[Labels, int] = defaultdict(int)
        self._sampled_tokens: dict[Labels, int] = defaultdict(int)
        self._whole = _histograms(_WHOLE_SECONDS)
        self._first = _histograms(_FIRST_SECONDS)
        self._between = _histograms(_TOKEN_SECONDS)

    def served(self, call: ServedCall) -> None:
        model = ("model", OTHER if call.answered_by is None else call.answered_by)
        self._sampled_tokens[(model,)] += len(call.reply_ids)
        if _is_further_choice(call):
            return
        path = ("path", call.path if call.path in self._paths else OTHER)
        self._requests[(model, path, ("status", str(call.status)))] += 1
        self._prompt_tokens[(model,)] += len(call.prompt_ids)
        if call.is_answered:
            self._time((model,), call)

    def _time(self, labels: Labels, call: ServedCall) -> None:
        self._whole[labels].note(call.seconds)
        if call.seconds_to_first_token is None:
            return
        self._first[labels].note(call.seconds_to_first_token)
        if (num_more := len(call.reply_ids) - 1) > 0:
            seconds = max(0.0, call.seconds - call.seconds_to_first_token)
            self._between[labels].note(seconds / num_more)

    def text(self) -> str:
        """In the text format, version 0.0.4."""
        return "".join(f"{line}\n" for line in self._lines())

    def route(self) -> Route:
        async def answer(request: Request) -> Response:
            return Response(self.text(), media_type=CONTENT_TYPE)

        return Route(PATH, answer, methods=["GET"])

    def _lines(self) -> Iterator[str]:
        counters = (
            ("requests_total", "requests that ended, refused ones too", self._requests),
            ("prompt_tokens_total", "tokens of prompts", self._prompt_tokens),
            ("sampled_tokens_total", "tokens of replies", self._sampled_tokens),
        )
        for name, told, counts in counters:
            yield from _heading(name, told, "counter")
            for labels, count in counts.items():
                yield _sample(_PREFIX + name, labels, count)
        histograms = (
            ("request_seconds", "from a request to the end of its answer", self._whole),
            ("time_to_first_token_seconds", "from a request to its first token", self._first),
            (
                "time_between_tokens_seconds",
                "the mean of each answer, behind its first token",
                self._between,
            ),
        )
        for name, told, of_labels in histograms:
            yield from _heading(name, told, "histogram")
            for labels, histogram in of_labels.items():
                yield from histogram.lines(_PREFIX + name, labels)
        yield from self._read_meters()

    def _read_meters(self) -> Iterator[str]:
        headed = ""
        for reading in (reading for read in self._meters for reading in read()):
            if reading.name != headed:
                headed = reading.name
                yield from _heading(reading.name, reading.told, reading.kind)
            labels = tuple((reading.labels or {}).items())
            yield _sample(_PREFIX + reading.name, labels, reading.value)


def _is_further_choice(call: ServedCall) -> bool:
    """Of a request with several, which is one request with one prompt."""
    return "-" in bare_id(call.call_id)


def _histograms(bounds: tuple[float, ...]) -> dict[Labels, _Histogram]:
    return defaultdict(lambda: _Histogram(bounds))


def _heading(name: str, told: str, kind: str) -> Iterator[str]:
    yield f"# HELP {_PREFIX}{name} {escaped(told)}"
    yield f"# TYPE {_PREFIX}{name} {kind}"


def _sample(name: str, labels: Labels, value: float) -> str:
    shown = ",".join(f'{label}="{quoted(text)}"' for label, text in labels)
    return f"{name}{{{shown}}} {shown_number(value)}" if shown else f"{name} {shown_number(value)}"
