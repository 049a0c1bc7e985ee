"""Tools of an MCP server, for an agent without a framework that brings them.

    async with mcp_tools(["python", "files.py"]) as server:
        completion = await client.chat.completions.create(..., tools=server.tools)
        for call in completion.choices[0].message.tool_calls or []:
            messages.append(await server.call(call))

A server that is started for it ends with the block. Needs the package `mcp`, 1.x or 2.x. An MCP
server has neither tasks nor rewards: it is no environment.
"""

import asyncio
import contextlib
import os
import shlex
import signal
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Self, cast

from astuner.env_service.tool_calls import (
    AskedCall,
    asked_call,
    no_object,
    text_of_blocks,
    tool_answer,
    tool_of,
)
from astuner.errors import ConfigError, EnvServiceError, boundary, described
from astuner.types import Message, Tool

_END_SECONDS = 8.0
"""More than the package takes: 2 s for a server to end by itself, 2 s until it is killed."""
_LEAVE_SECONDS = 2.0
"""To tell a server of somebody else that its session is over."""
_MAX_WORDS_BYTES = 600
_SAY_AND_RUN = 'echo $$ > "$0" && exec "$@"'
"""Of a shell: the number of its process, which is that of its group, and then the server in it."""


class McpTools:
    """The tools of one server, while it is open."""

    tools: Sequence[Tool]
    """In OpenAI's format."""

    def __init__(self, connection: "_McpConnection", tools: Sequence[Tool]) -> None:
        self._connection = connection
        self.tools = tools

    async def call(self, tool_call: Any, *, timeout_seconds: float | None = None) -> Message:
        """Call once; the answer is the tool's message, as the agent reads it.

        `tool_call` is one in OpenAI's format, or an object of OpenAI's client. What a tool says is
        wrong, and a tool or arguments that are not there, is an answer too. Raises EnvServiceError
        where the server fails, or gives no answer in time; None: in the server's.
        """
        call = asked_call(
            tool_call if isinstance(tool_call, Mapping) else tool_call.model_dump(mode="json")
        )
        if call.arguments is None:
            return no_object(call)
        return tool_answer(call, await self._connection.result_of(call, timeout_seconds))


@contextlib.asynccontextmanager
async def mcp_tools(
    server: str | Sequence[str],
    *,
    headers: Mapping[str, str] | None = None,
    environment: Mapping[str, str] | None = None,
    timeout_seconds: float = 60.0,
) -> AsyncIterator[McpTools]:
    """Open a server for the time of the block.

    `server` is the URL of one that speaks streamable HTTP, which gets `headers`; or a command, as a
    list, of one that speaks over its standard input and output. Such a process gets PATH, HOME and
    the like, and `environment`. Opening and each call may take `timeout_seconds`; closing is
    bounded, and ends the process and its children, also where the block is cancelled.

    Raises EnvServiceError where the server cannot be opened in time, and ConfigError where the
    package is missing.
    """
    if isinstance(server, str):
        opened = _opened(
            f"MCP server {server}",
            _over_http(server, headers or {}),
            seconds=timeout_seconds,
            close_seconds=_LEAVE_SECONDS,
        )
        async with opened as tools:
            yield tools
        return
    name = f"MCP server `{shlex.join(server)}`"
    with _Program(server, environment or {}) as program:
        opened = _opened(
            name,
            program.streams,
            seconds=timeout_seconds,
            close_seconds=_END_SECONDS,
            told=program.last_words,
        )
        async with opened as tools:
            yield tools


OpenStreams = Callable[[], AbstractAsyncContextManager[Any]]
"""Gives what the package reads from and writes to first, whatever else."""


@contextlib.asynccontextmanager
async def _opened(
    name: str,
    open_streams: OpenStreams,
    *,
    seconds: float,
    close_seconds: float,
    told: Callable[[], str] = str,
) -> AsyncIterator[McpTools]:
    connection = _McpConnection(name, open_streams, timeout_seconds=seconds, told=told)
    try:
        yield McpTools(connection, await connection.open())
    finally:
        await connection.close(close_seconds)


def _over_http(url: str, headers: Mapping[str, str]) -> OpenStreams:
    if not url.startswith(("http://", "https://")):
        raise ConfigError(
            f"mcp_tools: {url!r} is no URL; write http://…, or the command of a server as a list: "
            f"{shlex.split(url)}"
        )
    _need_package()

    @contextlib.asynccontextmanager
    async def opened() -> AsyncIterator[Any]:
        from mcp.client.streamable_http import streamable_http_client
        from mcp.shared._httpx_utils import create_mcp_http_client

        async with (
            create_mcp_http_client(headers=dict(headers)) as client,
            streamable_http_client(url, http_client=client) as streams,
        ):
            yield streams

    return opened


class _Program:
    """A server that is started, in a session of its own, and what it leaves behind.

    The package ends the server. Children of one that ended by itself it does not know, so that the
    group is killed behind it.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        _need_package()
        self._command = command
        self._environment = dict(environment)

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="astuner-mcp-")
        self._group = Path(self._folder.name, "group")
        self._complaints = Path(self._folder.name, "stderr").open("a+b")
        return self

    def __exit__(self, *_: object) -> None:
        if self._group.exists() and (group := self._group.read_text().strip()):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(int(group), signal.SIGKILL)
        self._complaints.close()
        self._folder.cleanup()

    def streams(self) -> AbstractAsyncContextManager[Any]:
        from mcp import StdioServerParameters
        from mcp.client.stdio import stdio_client

        parameters = StdioServerParameters(
            command="/bin/sh",
            args=["-c", _SAY_AND_RUN, str(self._group), *self._command],
            env=self._environment,
        )
        return stdio_client(parameters, errlog=cast(Any, self._complaints))

    def last_words(self) -> str:
        """Of its standard error, to be put behind a message."""
        descriptor = self._complaints.fileno()
        start = max(0, os.fstat(descriptor).st_size - _MAX_WORDS_BYTES)
        text = os.pread(descriptor, _MAX_WORDS_BYTES, start).decode(errors="replace").strip()
        return f"; the server said: {text}" if text else ""


def _need_package() -> None:
    try:
        import mcp  # noqa: F401
    except ModuleNotFoundError as error:
        raise ConfigError(
            "mcp_tools: the package mcp is not installed; run pip install mcp"
        ) from error


class _McpConnection:
    """Lives in a task of its own, from its opening to its end.

    The package binds cancel scopes to that task. In the agent's own they could cancel the agent, or
    its cancellation could cut short how the server is ended.
    """

    def __init__(
        self,
        name: str,
        open_streams: OpenStreams,
        *,
        timeout_seconds: float,
        told: Callable[[], str],
    ) -> None:
        self._name = name
        self._open_streams = open_streams
        self._timeout_seconds = timeout_seconds
        self._told = told
        self._is_over = asyncio.Event()
        self._session: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._life = asyncio.create_task(self._live())

    async def open(self) -> Sequence[Tool]:
        await self._wait_for(self._session, "opening it")
        listing = asyncio.create_task(_listed(self._session.result()))
        await self._wait_for(listing, "the list of its tools")
        with boundary(EnvServiceError, f"{self._name}, the list of its tools"):
            return listing.result()

    async def result_of(self, call: AskedCall, seconds: float | None) -> str:
        """The text that the tool gave; after "error: ", where it failed."""
        what = f"the tool {call.name}"
        asked = self._session.result().call_tool(call.name, dict(call.arguments or {}))
        request = asyncio.create_task(asked)
        await self._wait_for(request, what, seconds)
        error = request.exception()
        if error is not None and (said := _said_about_call(error)) is not None:
            return f"error: {said}"
        with boundary(EnvServiceError, f"{self._name}, {what}{self._told()}"):
            result = request.result().model_dump(by_alias=True, mode="json")
        text = text_of_blocks(result["content"])
        return f"error: {text}" if result.get("isError") else text

    async def close(self, seconds: float) -> None:
        self._is_over.set()
        if self._session.cancelled() or not self._session.done():
            self._life.cancel()  # it is still being opened, and looks at nothing else
        try:
            await asyncio.wait({self._life}, timeout=seconds)
        finally:
            self._life.cancel()
            self._life.add_done_callback(_look_at)
        await asyncio.wait({self._life}, timeout=seconds)

    async def _live(self) -> None:
        from mcp import ClientSession

        async with (
            self._open_streams() as (reading, writing, *_),
            ClientSession(reading, writing) as session,
        ):
            await session.initialize()
            self._session.set_result(session)
            await self._is_over.wait()

    async def _wait_for(
        self, wanted: "asyncio.Future[Any]", what: str, seconds: float | None = None
    ) -> None:
        """Until it is there. Raises EnvServiceError where it does not come in time, or never."""
        seconds = self._timeout_seconds if seconds is None else seconds
        try:
            await asyncio.wait(
                {wanted, self._life}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED
            )
            if wanted.done() and not wanted.cancelled():
                return
            if not wanted.done() and not self._life.done():
                raise self._failed(
                    what,
                    f"it did not come within {seconds:g} s (timeout_seconds); see what the server "
                    "does, or raise the limit",
                )
            is_failed = self._life.done() and not self._life.cancelled()
            error = self._life.exception() if is_failed else None
            why = "the connection ended" if error is None else described(_first_of(error))
            raise self._failed(what, f"{why}; see whether it is such a server") from error
        finally:
            wanted.cancel()

    def _failed(self, what: str, why: str) -> EnvServiceError:
        return EnvServiceError(f"{self._name}, {what}: {why}{self._told()}")


async def _listed(session: Any) -> Sequence[Tool]:
    """All tools, page by page."""
    from mcp.types import PaginatedRequestParams

    tools: list[Tool] = []
    cursor: str | None = None
    while True:
        params = PaginatedRequestParams(cursor=cursor) if cursor else None
        page = (await session.list_tools(params=params)).model_dump(by_alias=True, mode="json")
        tools += [
            tool_of(tool["name"], tool.get("description"), tool.get("inputSchema"))
            for tool in page["tools"]
        ]
        cursor = page.get("nextCursor")
        if not cursor:
            return tools


def _said_about_call(error: BaseException) -> str | None:
    """What the server said is wrong with a call, for the agent; None where the server failed."""
    from mcp.shared import exceptions
    from mcp.types import CONNECTION_CLOSED

    kind = getattr(exceptions, "MCPError", None) or getattr(exceptions, "McpError")  # noqa: B009
    if not isinstance(error, kind):
        return None
    detail = cast(Any, error).error
    return None if detail.code == CONNECTION_CLOSED else str(detail.message)


def _first_of(error: BaseException) -> BaseException:
    """What a group of errors began with."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _look_at(task: "asyncio.Task[None]") -> None:
    """Whatever a closing connection raises is of no use to anyone any more."""
    if not task.cancelled():
        task.exception()
