"""Serves the newest metrics of a run to Prometheus.

In a thread with an event loop of its own: that of the run stands still while the model trains, and
a scrape is to be answered then too. Owns the text format and no numbers.
"""

import asyncio
import math
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from astuner.errors import ConfigError
from astuner.serving.server import Server

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

PATH = "/metrics"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_TIME = "metrics_time_seconds"
_END_SECONDS = 5.0


class NewestMetrics:
    """What a scrape is answered; told of metrics by the run, and read by the server's thread."""

    def __init__(self, run_name: str) -> None:
        self._run_name = run_name
        self._metrics: Mapping[str, float | None] = {}
        self._seconds: float | None = None

    def take(self, metrics: Mapping[str, float | None]) -> None:
        self._seconds, self._metrics = time.time(), dict(metrics)

    def text(self) -> str:
        """In the text format, version 0.0.4. What is not known is left out."""
        values = {**self._metrics, _TIME: self._seconds}
        described = {name: f"{name} of the newest line of metrics.jsonl" for name in self._metrics}
        described[_TIME] = "when that line was written, in seconds since 1970"
        known = {name: value for name, value in values.items() if value is not None}
        families: dict[str, dict[str, float]] = {}
        for name, value in known.items():
            families.setdefault(prometheus_name(name), {})[name] = value
        lines = [
            *_family("astuner_run", "1 while the run is at work", {"run": 1.0}, self._run_name)
        ]
        for family, members in families.items():
            told = "; ".join(described[name] for name in members)
            lines += _family(family, told, members, self._run_name)
        return "".join(f"{line}\n" for line in lines)


def prometheus_name(name: str) -> str:
    """`reward/mean` is astuner_reward_mean: the prefix, and an underscore for each other sign."""
    return f"astuner_{re.sub(r'[^a-zA-Z0-9_]', '_', name)}"


def _family(family: str, told: str, members: Mapping[str, float], run_name: str) -> Iterator[str]:
    """Where several metrics have the same name here, the label `name` tells them apart."""
    yield f"# HELP {family} {escaped(told)}"
    yield f"# TYPE {family} gauge"
    for name, value in members.items():
        labels = {"run": run_name} | ({"name": name} if len(members) > 1 else {})
        shown = ",".join(f'{label}="{quoted(text)}"' for label, text in labels.items())
        yield f"{family}{{{shown}}} {shown_number(value)}"


def shown_number(value: float) -> str:
    """As the text format writes it."""
    if math.isfinite(value):
        return repr(float(value))
    return "NaN" if math.isnan(value) else f"{'+' if value > 0 else '-'}Inf"


def escaped(text: str) -> str:
    """For a line of HELP."""
    return text.replace("\\", r"\\").replace("\n", r"\n")


def quoted(text: str) -> str:
    """For the value of a label."""
    return escaped(text).replace('"', r"\"")


@contextmanager
def serving_metrics(newest: NewestMetrics, *, host: str, port: int) -> Iterator[None]:
    """Answer scrapes for as long as this is open.

    Raises ConfigError for a port that is taken or a host that is not of this machine.
    """
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="prometheus", daemon=True)
    try:
        server = Server(
            _make_app(newest), setting="metrics.prometheus", host=host, port=port, loop=loop
        )
    except ConfigError as error:
        loop.close()
        raise ConfigError(
            f"metrics.prometheus_port {port}: cannot listen there on metrics.prometheus_host "
            f"{host} ({error.__cause__}); choose another port, or null to serve no metrics"
        ) from error
    thread.start()
    try:
        yield
    finally:
        with suppress(TimeoutError):
            asyncio.run_coroutine_threadsafe(server.stop(), loop).result(_END_SECONDS)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(_END_SECONDS)
        if not thread.is_alive():
            loop.close()


def _make_app(newest: NewestMetrics) -> "Starlette":
    from starlette.applications import Starlette
    from starlette.responses import Response
    from starlette.routing import Route

    async def answer(request: "Request") -> "Response":
        return Response(newest.text(), media_type=CONTENT_TYPE)

    return Starlette(routes=[Route(PATH, answer)])
