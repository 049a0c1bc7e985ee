"""Shows metrics where a team looks at them: tensorboard, wandb, swanlab, mlflow, trackio.

Each through its own library, in a thread of its own behind a queue: a logger that fails, hangs or
has no network is reported once and never stops or slows the run. What matters is in metrics.jsonl.
"""

import importlib.util
import logging
import queue
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from astuner.backbone.prometheus import NewestMetrics, serving_metrics
from astuner.backbone.run import Run
from astuner.config.secret import shown_settings
from astuner.config.source import flatten
from astuner.errors import ConfigError

logger = logging.getLogger(__name__)

LogMetrics = Callable[[Mapping[str, float | None]], None]
"""Takes the metrics of a step."""

_LONGEST_QUEUE = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedRun:
    """What a logger is told about a run."""

    project: str
    name: str
    """The same when the run is resumed."""
    folder: Path
    """The run directory."""
    config: Mapping[str, Any]
    """Flat, without secrets."""


@contextmanager
def metrics_log(run: Run) -> Iterator[LogMetrics]:
    """What takes the metrics of a step and shows them where trainer_common.logger says, and serves
    the newest on metrics.prometheus_port.

    Raises ConfigError where a library that it needs is missing, or the port is taken.
    """
    logger = run.settings.trainer_common.logger
    names = [logger] if isinstance(logger, str) else logger
    loggers = {name: LOGGERS[name] for name in names if name in LOGGERS}
    check_installed(loggers)
    logged = LoggedRun(
        project=run.settings.project_name,
        name=run.run_dir.run_name,
        folder=run.run_dir.root,
        config=flatten(shown_settings(run.settings, run.shown_as)),
    )
    served = run.settings.metrics
    with ExitStack() as stack:
        log = stack.enter_context(logging_to(loggers, logged))
        if served.prometheus_port is None:
            yield log
            return
        newest = NewestMetrics(logged.name)
        stack.enter_context(
            serving_metrics(newest, host=served.prometheus_host, port=served.prometheus_port)
        )

        def log_and_serve(metrics: Mapping[str, float | None]) -> None:
            newest.take(metrics)
            log(metrics)

        yield log_and_serve


class Logger(Protocol):
    """One library. Used by one thread."""

    def log(self, metrics: Mapping[str, float], step: int) -> None: ...

    def close(self) -> None: ...


MakeLogger = Callable[[LoggedRun], Logger]


class _Tensorboard:
    def __init__(self, run: LoggedRun) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(run.folder / "tensorboard"))
        rows = "\n".join(f"| {key} | {value} |" for key, value in run.config.items())
        self._writer.add_text("config", f"| setting | value |\n| --- | --- |\n{rows}")

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class _Wandb:
    def __init__(self, run: LoggedRun) -> None:
        import wandb  # type: ignore[import-not-found]  # an extra

        self._run = wandb.init(
            project=run.project,
            name=run.name,
            id=re.sub(r"[^\w-]", "-", run.name),
            resume="allow",
            dir=str(run.folder),
            config=dict(run.config),
        )

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self._run.log(dict(metrics), step=step)

    def close(self) -> None:
        self._run.finish()


class _Swanlab:
    def __init__(self, run: LoggedRun) -> None:
        import swanlab  # type: ignore[import-not-found]  # an extra

        self._library = swanlab
        swanlab.init(
            project=run.project,
            experiment_name=run.name,
            config=dict(run.config),
            logdir=str(run.folder / "swanlab"),
        )

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self._library.log(dict(metrics), step=step)

    def close(self) -> None:
        self._library.finish()


class _Mlflow:
    def __init__(self, run: LoggedRun) -> None:
        import mlflow  # type: ignore[import-not-found]  # an extra

        self._library = mlflow
        if not mlflow.is_tracking_uri_set():  # it would take the current folder
            mlflow.set_tracking_uri(f"sqlite:///{run.folder.parent.parent / 'mlflow.db'}")
        mlflow.set_experiment(run.project)
        mlflow.start_run(run_name=run.name)
        mlflow.log_params({key: str(value)[:500] for key, value in run.config.items()})

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self._library.log_metrics(dict(metrics), step=step)

    def close(self) -> None:
        self._library.end_run()


class _Trackio:
    def __init__(self, run: LoggedRun) -> None:
        import trackio  # type: ignore[import-not-found]  # an extra

        self._library = trackio
        trackio.init(project=run.project, name=run.name, config=dict(run.config), resume="allow")

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self._library.log(dict(metrics), step=step)

    def close(self) -> None:
        self._library.finish()


LOGGERS: dict[str, MakeLogger] = {
    "tensorboard": _Tensorboard,
    "wandb": _Wandb,
    "swanlab": _Swanlab,
    "mlflow": _Mlflow,
    "trackio": _Trackio,
}
"""By the name in `trainer_common.logger`, which is also that of the library and of the extra."""


def check_installed(names: Iterable[str]) -> None:
    """Raise ConfigError for a logger whose library is not there."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise ConfigError(
                f"trainer_common.logger: {name} is not installed: pip install 'astuner[{name}]'"
            )


@contextmanager
def logging_to(
    loggers: Mapping[str, MakeLogger], run: LoggedRun, *, close_seconds: float = 20.0
) -> Iterator[LogMetrics]:
    """Give a function that hands a step's metrics to all; it returns at once.

    On leaving, what is queued is written for at most `close_seconds`.
    """
    workers = [_LoggerThread(name, make, run) for name, make in loggers.items()]

    def log(metrics: Mapping[str, float | None]) -> None:
        for worker in workers:
            worker.put(metrics)

    try:
        yield log
    finally:
        deadline = time.monotonic() + close_seconds
        for worker in workers:
            worker.close(deadline)


class _LoggerThread:
    """A logger in its thread."""

    def __init__(self, name: str, make: MakeLogger, run: LoggedRun) -> None:
        self._name, self._make, self._run = name, make, run
        self._queue: queue.Queue[tuple[int, dict[str, float]] | None]
        self._queue = queue.Queue(_LONGEST_QUEUE)
        self._thread = threading.Thread(target=self._work, name=f"logger-{name}", daemon=True)
        self._thread.start()

    def put(self, metrics: Mapping[str, float | None]) -> None:
        known = {name: value for name, value in metrics.items() if value is not None}
        step = int(known.pop("step"))
        try:
            self._queue.put_nowait((step, known))
        except queue.Full:
            logger.debug("logger %s: its queue is full, a step is left out", self._name)

    def close(self, deadline: float) -> None:
        try:
            self._queue.put_nowait(None)
        except queue.Full:
            return
        self._thread.join(max(0.0, deadline - time.monotonic()))
        if self._thread.is_alive():
            logger.warning(
                "logger %s did not finish and is left behind; metrics.jsonl has everything",
                self._name,
            )

    def _work(self) -> None:
        try:
            target = self._make(self._run)
            while (entry := self._queue.get()) is not None:
                step, metrics = entry
                target.log(metrics, step)
            target.close()
        except BaseException as error:  # noqa: BLE001  # a logger never stops the run
            logger.warning(
                "logger %s failed and is switched off for this run: %s: %s; metrics.jsonl has "
                "everything",
                self._name,
                type(error).__name__,
                error,
            )
