"""What a handle of the hub offers in every process of a run: its methods, asked from afar.

Types only. Each answer is awaited, or got by `ray.get`.
"""

from collections.abc import Awaitable, Mapping, Sequence
from typing import ParamSpec, Protocol, TypeVar

from astuner.backbone.cluster.messages import (
    Metrics,
    News,
    SavedState,
    StepPlan,
)
from astuner.backbone.worker_run import WorkerRun
from astuner.errors import AstunerError
from astuner.rollout.targets import TargetNote
from astuner.types import Task

P = ParamSpec("P")
Answer = TypeVar("Answer", covariant=True)


class RemoteMethod(Protocol[P, Answer]):
    """A method of the hub."""

    def remote(self, *args: P.args, **kwargs: P.kwargs) -> Awaitable[Answer]: ...


class BringingMethod(Protocol[Answer]):
    """One that takes an episode or an attempt, as one JSON line."""

    def remote(
        self, line: bytes, *, group: str, targets: Sequence[TargetNote] = ()
    ) -> Awaitable[Answer]: ...


class EnteringMethod(Protocol):
    """The one that begins a phase."""

    def remote(
        self, name: str, *, step: int | None = None, total: int | None = None
    ) -> Awaitable[None]: ...


class HubHandle(Protocol):
    """See `Hub` for what each does."""

    @property
    def prepare(self) -> RemoteMethod[[], None]: ...
    @property
    def worker_run(self) -> RemoteMethod[[], WorkerRun]: ...
    @property
    def tasks(self) -> RemoteMethod[[str], Sequence[Task]]: ...
    @property
    def add_episode(self) -> BringingMethod[bytes | None]: ...
    @property
    def compare(self) -> BringingMethod[bytes]: ...
    @property
    def fail(self) -> RemoteMethod[[AstunerError], None]: ...
    @property
    def enter(self) -> EnteringMethod: ...
    @property
    def deal(self) -> RemoteMethod[[int, int], Sequence[int]]: ...
    @property
    def plan(self) -> RemoteMethod[[int], StepPlan]: ...
    @property
    def plan_of_what_is_there(self) -> RemoteMethod[[int], StepPlan]: ...
    @property
    def add_metrics(self) -> RemoteMethod[[int, Metrics], None]: ...
    @property
    def add_logprobs(self) -> RemoteMethod[[int, Mapping[str, Sequence[float]]], None]: ...
    @property
    def finish_step(self) -> RemoteMethod[[int, Metrics], None]: ...
    @property
    def finish_validation(self) -> RemoteMethod[[int], None]: ...
    @property
    def saved(self) -> RemoteMethod[[SavedState], None]: ...
    @property
    def is_stop_requested(self) -> RemoteMethod[[], bool]: ...
    @property
    def request_stop(self) -> RemoteMethod[[], None]: ...
    @property
    def news(self) -> RemoteMethod[[], News]: ...
