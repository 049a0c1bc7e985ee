"""All that a model server keeps of its calls: numbers always, and words where they are asked for.

Puts together what stands in call_metrics.py, recording.py and feedback.py.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Protocol, Self

from starlette.routing import Route

from astuner.engine.scheduler import EngineLoad
from astuner.gateway.app import WIRE_FORMATS
from astuner.model_server.call_metrics import CallMetrics, MeterReading
from astuner.model_server.feedback import AnsweredCalls, FeedbackDesk, KeyOf
from astuner.model_server.recording import CallRecorder, RecordingOptions
from astuner.model_server.served_call import CallObserver, ServedCall

_LAST_SECONDS = 30.0
"""What the disk may take for the last records."""


class Loads(Protocol):
    """How busy a server is."""

    def num_under_way(self) -> int: ...

    def engines(self) -> Mapping[str, EngineLoad]:
        """By the name of their model."""
        ...


class CallBooks:
    """Of one server: an observer of its calls, see `CallObserver`, and further routes. To be
    entered before it serves and left behind it."""

    def __init__(self, recording: RecordingOptions | None, loads: Loads) -> None:
        """Raises ConfigError where nothing can be recorded as it is asked for."""
        self._loads = loads
        self._recorder = CallRecorder(recording) if recording else None
        self._answered = AnsweredCalls()
        if recording:
            self._answered.read_back(recording.folder)
        self._desks: list[FeedbackDesk] = []
        paths = [wire.path for wire in WIRE_FORMATS]
        self._metrics = CallMetrics(paths=paths, meters=[self._readings])
        kept = [self._recorder, self._answered] if self._recorder else []
        self._observers: Sequence[CallObserver] = (self._metrics, *kept)

    def served(self, call: ServedCall) -> None:
        for observer in self._observers:
            observer.served(call)

    def routes(self, key_of: KeyOf) -> list[Route]:
        """`/metrics` and, where calls are recorded, feedback on them."""
        if self._recorder is None:
            return [self._metrics.route()]
        desk = FeedbackDesk(self._recorder, self._answered, key_of)
        self._desks.append(desk)
        return [self._metrics.route(), desk.route()]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._recorder is not None:
            self._recorder.close(seconds=_LAST_SECONDS)

    def _readings(self) -> Iterator[MeterReading]:
        told = "requests that are being answered or wait for it"
        yield MeterReading(name="requests_in_flight", told=told, value=self._loads.num_under_way())
        loads = self._loads.engines()
        for name, told, read in _OF_ENGINES:
            for model, load in loads.items():
                yield MeterReading(name=name, told=told, value=read(load), labels={"model": model})
        if self._recorder is not None:
            yield from self._recorder.readings()
        for desk in self._desks:
            yield from desk.readings()


_OF_ENGINES: Sequence[tuple[str, str, Callable[[EngineLoad], float]]] = (
    ("running_sequences", "sequences that are being written", lambda load: load.num_running),
    ("waiting_sequences", "sequences that wait for their turn", lambda load: load.num_waiting),
    (
        "cache_used_ratio",
        "pages for keys and values that running sequences hold, from 0 to 1",
        lambda load: load.cache_share,
    ),
)
