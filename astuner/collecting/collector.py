"""The receiver: who may send, how much, and how it ends.

What becomes of a request stands in `writing.py`.
"""

import asyncio
import errno
import hashlib
import hmac
import ipaddress
import logging
import socket
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from astuner.collecting.export_request import (
    ExportResult,
    Signal,
    answer,
    form_of_body,
    refused_export,
)
from astuner.collecting.writing import ExportWriter
from astuner.errors import ConfigError
from astuner.machine.listeners import listener_at
from astuner.machine.os_errors import advice
from astuner.serving.address import listen, reachable_host
from astuner.serving.answer import json_answer
from astuner.serving.bounds import WaitingRoom, read_body
from astuner.serving.connection import connection_of
from astuner.serving.hosts import HostCheck, own_names
from astuner.serving.keys import presented_key
from astuner.serving.refusal import CLOSE, Refusal
from astuner.serving.seldom_log import SeldomLog
from astuner.serving.server import Server
from astuner.serving.under_way import UnderWay

logger = logging.getLogger(__name__)

PATHS: Mapping[Signal, str] = {"traces": "/v1/traces", "logs": "/v1/logs"}
_MAX_WAITING = 64
_MAX_WAITING_BYTES = 128_000_000
"""Of bodies that wait for the thread that writes, beside the one that is read there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectorOptions:
    """Who may send, and how much at a time."""

    host: str
    token: str | None
    """That senders have to show; None: nobody has to."""
    max_body_bytes: int
    allowed_hosts: Sequence[str] = ()
    """Further names by which senders may call it."""


class Collector:
    """`async with` it; it listens from the beginning."""

    def __init__(
        self, options: CollectorOptions, listening: socket.socket, writer: ExportWriter
    ) -> None:
        """The socket, which listens already, and the writer become its own."""
        self._options = options
        self._listening = listening
        self._writer = writer
        self._under_way = UnderWay()
        self._waiting = WaitingRoom(_MAX_WAITING, setting="of this collector")
        self._waiting_bytes = 0
        self._log = SeldomLog(logger, clock=time.monotonic)
        self._server: Server | None = None
        self.counts: Counter[str] = Counter()
        """Of requests, spans and log records that were kept, of records that were rejected, of
        requests that were refused."""

    async def __aenter__(self) -> Self:
        self._server = Server(
            self._app(), setting="traces collect", host=self._options.host,
            listening=self._listening,
        )  # fmt: skip
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.refuse_further()
        if self._server is not None:
            await self._server.stop()
        await asyncio.to_thread(self._writer.close)

    @property
    def address(self) -> str:
        """Without a path: http://127.0.0.1:4318."""
        assert self._server is not None
        return self._server.address

    def refuse_further(self) -> None:
        """From here on requests are refused, to be sent again later; those under way go on."""
        self._under_way.refuse_further(_ending)

    def num_under_way(self) -> int:
        return self._under_way.num_requests

    async def all_answered(self) -> None:
        await self._under_way.empty()

    def _app(self) -> HostCheck:
        routes = [
            Route(PATHS["traces"], self._take_traces, methods=["POST"]),
            Route(PATHS["logs"], self._take_logs, methods=["POST"]),
            Route("/v1/metrics", self._no_metrics, methods=["POST"]),
            Route("/healthz", self._health, methods=["GET"]),
        ]
        options = self._options
        names = {*own_names(), reachable_host(options.host), *options.allowed_hosts}
        return HostCheck(Starlette(routes=routes), names=names, setting="--allowed-host")

    async def _take_traces(self, request: Request) -> Response:
        return await self._answer(request, "traces")

    async def _take_logs(self, request: Request) -> Response:
        return await self._answer(request, "logs")

    async def _answer(self, request: Request, signal: Signal) -> Response:
        headers = dict(request.scope["headers"])
        try:
            self._let_in(headers)
            connection_of(request.scope).know()
            form = form_of_body(headers)
            with self._under_way.one(), self._waiting.place():
                body = await read_body(
                    headers, request.receive, max_bytes=self._options.max_body_bytes,
                    setting="--max-body-mb",
                )  # fmt: skip
                result = await self._kept(body, headers, signal)
            self._count(signal, result)
            return answer(result, form, signal)
        except ClientDisconnect:
            return Response(status_code=400)  # which nobody reads
        except Refusal as refusal:
            self.counts["refused requests"] += 1
            self._log.warn(
                refusal.code, "request refused status=%d: %s", refusal.status, refusal.message
            )
            return refused_export(refusal, headers)

    def _let_in(self, headers: Mapping[bytes, bytes]) -> None:
        """Raises Refusal 401. Takes as long whatever is shown."""
        token = self._options.token
        if token is None:
            return
        if not hmac.compare_digest(_digest(presented_key(headers)), _digest(token)):
            raise Refusal(
                401,
                "the token is missing or another one; send the header `Authorization: Bearer "
                "TOKEN`, as by OTEL_EXPORTER_OTLP_HEADERS=authorization=Bearer%20TOKEN",
                code="invalid_token",
                headers=CLOSE,
            )

    async def _kept(
        self, body: bytes, headers: Mapping[bytes, bytes], signal: Signal
    ) -> ExportResult:
        """Raises Refusal 429 where too much waits already."""
        if self._waiting_bytes and self._waiting_bytes + len(body) > _MAX_WAITING_BYTES:
            raise Refusal(
                429,
                f"{self._waiting_bytes} bytes wait to be written already; send it again in a "
                "moment",
                code="too_many_waiting",
                headers={"retry-after": "2"},
            )
        self._waiting_bytes += len(body)
        try:
            return await self._writer.keep(body, headers, signal)
        finally:
            self._waiting_bytes -= len(body)

    def _count(self, signal: Signal, result: ExportResult) -> None:
        noun = "spans" if signal == "traces" else "log records"
        self.counts["requests"] += 1
        self.counts[noun] += result.num_kept
        self.counts["rejected records"] += result.num_rejected
        if result.num_rejected:
            self._log.warn(
                "rejected", "records rejected num=%d: %s", result.num_rejected, result.reason
            )

    async def _health(self, request: Request) -> Response:
        state = "ok" if self._under_way.is_open else "ending"
        return json_answer({"status": state, "num_under_way": self.num_under_way()})

    async def _no_metrics(self, request: Request) -> Response:
        refusal = Refusal(
            404,
            "this collector keeps traces and logs, and no metrics; set OTEL_METRICS_EXPORTER=none",
            code="not_found",
        )
        return refused_export(refusal, dict(request.scope["headers"]))


def listen_for_exporters(host: str, port: int) -> socket.socket:
    """Raises ConfigError for an address that is taken or not of this machine."""
    try:
        return listen(host, port, setting="traces collect")
    except ConfigError as error:
        number = error.__cause__.errno if isinstance(error.__cause__, OSError) else None
        who = listener_at(port) if number == errno.EADDRINUSE else None
        found = f"{who} listens there" if who else str(error.__cause__)
        raise ConfigError(
            f"traces collect: cannot listen at --host {host}, --port {port}: {found}; "
            f"give another --port, or {advice(number)}"
        ) from error


def is_reached_from_elsewhere(listening: socket.socket) -> bool:
    address, _, _zone = listening.getsockname()[0].partition("%")
    return not ipaddress.ip_address(address).is_loopback


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _ending() -> Refusal:
    return Refusal(
        503,
        "this collector is ending; send it again in a moment",
        code="server_ending",
        headers={"retry-after": "5", **CLOSE},
    )
