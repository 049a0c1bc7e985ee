"""Environments of a server of the Open Reward Standard, as episodes see them.

A session is one episode. An agent acts by calling tools, and by nothing else; the reward and the
end of the episode come with the answer of a tool. https://openrewardstandard.io
"""

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Self

import httpx

from astuner.env_service.instance import EnvironmentStep
from astuner.env_service.ors_events import server_events
from astuner.env_service.remote_server import RemoteServer, reading, said_by
from astuner.env_service.rewards import RewardSum, joined, reward_of
from astuner.env_service.tool_calls import (
    AskedCall,
    asked_calls,
    no_object,
    text_of_blocks,
    tool_answer,
    tool_of,
    which_tools,
)
from astuner.errors import EnvServiceError
from astuner.types import Message, Task, Tool

logger = logging.getLogger(__name__)

SECTION = "task_reader.ors"
_PING_SECONDS = 60.0
"""Servers end a session that has been idle for 15 minutes."""
_RELEASE_SECONDS = 3.0
_KEEP_CONNECTION_SECONDS = 2.0
"""Shorter than servers keep an idle one: a call on one that is just closed is lost, and nobody
knows whether it was made."""
_MAX_RESUMED = 3
_JSON = {"Content-Type": "application/json"}
_LONGEST_WAIT_SECONDS = 30.0


def key_header(server: RemoteServer) -> dict[str, str]:
    """The standard's own header for the token, beside that of HTTP."""
    return {"X-API-Key": server.token} if server.token else {}


class OrsEnvironments:
    """Where the instances of one server come from."""

    def __init__(self, server: RemoteServer) -> None:
        self.name = f"ORS server at {server.url}"
        self._server = server
        self._client: httpx.AsyncClient | None = None

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Self:
        return cls(RemoteServer.from_settings(settings, section=SECTION))

    async def create(self, task: Task, *, episode_id: str, seed: int) -> "OrsInstance":
        """A task of `OrsReader`. The standard has no seed."""
        del episode_id, seed
        if self._client is None:
            self._client = httpx.AsyncClient(
                **self._server.client_options(**key_header(self._server)),
                limits=httpx.Limits(keepalive_expiry=_KEEP_CONNECTION_SECONDS),
            )
        session = OrsSession(self._client, self._server, environment=task.env_type)
        try:
            await session.begin(split=task.metadata["split"], index=task.metadata["index"])
            messages = [{"role": "user", "content": await session.prompt()}]
            return OrsInstance(session, messages=messages, tools=await session.tools())
        except BaseException:
            await session.end()
            raise

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()


class OrsSession:
    """The session of one episode on the server, kept alive until `end`."""

    def __init__(
        self, client: httpx.AsyncClient, server: RemoteServer, *, environment: str
    ) -> None:
        self._client = client
        self._server = server
        self._environment = environment
        self.session_id = ""
        self.name = f"{environment} at {server.url}"
        self._turn = asyncio.Lock()
        self._pings: asyncio.Task[None] | None = None
        self._gone: str | None = None
        """Why the session answers no more."""

    async def begin(self, *, split: str, index: int) -> None:
        """Raises EnvServiceError where the server makes no such environment."""
        answer = await self._streamed("/create_session", {}, what="a session")
        with self.reading(answer, "a session"):
            self.session_id = str(answer["sid"])
        body = {"env_name": self._environment, "split": split, "index": index}
        await self._ask("POST", "/create", body, what=f"task {index} of split {split!r}")
        self._pings = asyncio.create_task(self._ping())

    async def prompt(self) -> str:
        blocks = await self._ask("GET", f"/{self._environment}/prompt", what="the prompt")
        with self.reading(blocks, "the prompt"):
            return text_of_blocks(blocks)

    async def tools(self) -> Sequence[Tool]:
        what = "its tools"
        path = f"/{self._environment}/task_tools"
        listed = await self._ask("GET", path, what=what, may_lack=True)
        if listed is None:  # of a server without tools of single tasks
            listed = await self._ask("GET", f"/{self._environment}/tools", what=what)
        with self.reading(listed, what):
            return [
                tool_of(tool["name"], tool.get("description"), tool.get("input_schema"))
                for tool in listed["tools"]
            ]

    async def call(self, call: AskedCall, *, what: str) -> Mapping[str, Any]:
        """{"ok": true, "output"} or {"ok": false, "error"}. Calls once, whatever happens."""
        async with self._turn:
            if self._gone is not None:
                raise self._failed(what, f"the session is gone: {self._gone}")
            self._gone = f"{what} never came"
            body = {"name": call.name, "input": call.arguments}
            answer = await self._streamed(f"/{self._environment}/call", body, what=what)
            self._gone = None
        if "raised" in answer:
            raise self._failed(what, f"the environment raised {answer['raised']}; see its log")
        return answer

    async def end(self) -> None:
        """Twice is harmless. A server that cannot be told ends the session by itself, when idle."""
        self._gone = self._gone or "it was released"
        pings, self._pings = self._pings, None
        if pings is not None:
            pings.cancel()
            await asyncio.gather(pings, return_exceptions=True)
        session_id, self.session_id = self.session_id, ""
        if not session_id:
            return
        headers = {"X-Session-ID": session_id}
        for path in ("/delete", "/delete_session"):
            try:
                await self._client.post(path, headers=headers, timeout=_RELEASE_SECONDS)
            except (httpx.HTTPError, RuntimeError) as error:  # the client may be closed
                logger.debug("session not ended url=%s%s reason=%s", self._server.url, path, error)

    async def _ping(self) -> None:
        while True:
            await asyncio.sleep(_PING_SECONDS)
            with contextlib.suppress(httpx.HTTPError):  # the next call says what is wrong
                await self._client.post("/ping", headers=self._headers)

    @property
    def _headers(self) -> dict[str, str]:
        return {"X-Session-ID": self.session_id} if self.session_id else {}

    async def _ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        what: str,
        may_lack: bool = False,
    ) -> Any:
        """The JSON of the answer; with `may_lack`, None where there is no such route."""
        try:
            async with self._sent(method, path, body, what=what, may_lack=may_lack) as response:
                text = await response.aread()
        except httpx.HTTPError as error:
            raise self._failed(what, self._server.why(error)) from error
        if response.status_code == httpx.codes.NOT_FOUND:
            return None
        with self.reading(text, what):
            return json.loads(text)

    async def _streamed(self, path: str, body: Mapping[str, Any], *, what: str) -> dict[str, Any]:
        """What comes at the end of a stream of events; {"raised"} where that is an error.

        A stream that is lost behind its name, `task_id`, is taken up again by it: the server goes
        on with what runs and starts nothing.
        """
        try:
            async with asyncio.timeout(self._server.timeout_seconds):
                return await self._followed(path, body, what=what)
        except TimeoutError as error:
            raise self._failed(
                what,
                f"no end within {self._server.timeout_seconds:g} s ({SECTION}.timeout_seconds); "
                "see what the environment does, or raise the limit",
            ) from error

    async def _followed(self, path: str, body: Mapping[str, Any], *, what: str) -> dict[str, Any]:
        task_id: str | None = None
        for num_resumed in range(_MAX_RESUMED + 1):
            pieces: list[str] = []
            again = {} if task_id is None else {"task_id": task_id}
            try:
                async with self._sent(
                    "POST", path, {**body, **again}, what=what, is_stream=True
                ) as response:
                    async for event in server_events(response.aiter_bytes()):
                        if event.name == "task_id":
                            task_id = event.data.strip()
                        elif event.name == "error":
                            return {"raised": f"{event.data!r:.300}"}
                        elif event.name in ("chunk", "end"):
                            pieces.append(event.data)
                        if event.name == "end":
                            text = "".join(pieces) or "{}"
                            with self.reading(text, what):
                                return {"sid": task_id, **json.loads(text)}
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                lost = self._server.why(error)
                if task_id is None:
                    raise self._failed(what, lost) from error
            except httpx.TransportError as error:
                lost = f"{type(error).__name__}: {error}"
            else:
                lost = "the stream ended before its end"
            if task_id is None:
                break
            await asyncio.sleep(0.2 * 2**num_resumed)
        raise self._failed(
            what, f"{lost}; what came of it is not known, so it is not asked for again"
        )

    def reading(self, answer: object, what: str) -> AbstractContextManager[None]:
        """What cannot be read of an answer is the server's failure."""
        return reading(answer, where=f"ORS environment {self.name}, {what}")

    @contextlib.asynccontextmanager
    async def _sent(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        *,
        what: str,
        may_lack: bool = False,
        is_stream: bool = False,
    ) -> AsyncIterator[httpx.Response]:
        """The response, whose body is still to come. Waits while the server says that it is not
        ready yet, which it does before it acts. Whoever reads a stream bounds its time."""
        timeout = None if is_stream else self._server.timeout_seconds
        # In ASCII: a model may write half of a character, which UTF-8 does not have.
        content = None if body is None else json.dumps(body).encode()
        headers = {**self._headers, **({} if body is None else _JSON)}
        while True:
            async with self._client.stream(
                method, path, content=content, headers=headers, timeout=timeout
            ) as response:
                if not response.is_error or (may_lack and response.status_code == 404):
                    yield response
                    return
                await response.aread()
            wait = _seconds_to_wait(response)
            if wait is None:
                raise self._failed(what, f"{said_by(response)}; see the log of the server")
            await asyncio.sleep(wait)

    def _failed(self, what: str, why: str) -> EnvServiceError:
        return EnvServiceError(f"ORS environment {self.name}, {what}: {why}")


def _seconds_to_wait(response: httpx.Response) -> float | None:
    """None where the server does not ask for it."""
    if response.status_code not in (429, 503) or "retry-after" not in response.headers:
        return None
    try:
        return min(max(float(response.headers["retry-after"]), 0.1), _LONGEST_WAIT_SECONDS)
    except ValueError:  # a date
        return 1.0


class OrsInstance:
    """One session as an episode sees it. Worth the sum of the rewards that its calls were given:
    most environments give one, with the answer that ends the episode."""

    def __init__(
        self,
        session: OrsSession,
        *,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Tool],
    ) -> None:
        self.instance_id = session.session_id
        self.messages = messages
        self.tools = tools
        self.info: Mapping[str, Any] = {}
        self._session = session
        self._is_finished = False
        self._earned = RewardSum()
        self._num_steps = 0

    async def step(self, action: Mapping[str, Any]) -> EnvironmentStep:
        """The calls of the message, in order; those behind the end of the episode are not made."""
        if self._is_finished:
            raise EnvServiceError(
                f"ORS environment {self._session.name}: step {self._num_steps + 1} was asked for "
                "after the episode had ended; end the workflow once a step is terminated"
            )
        self._num_steps += 1
        calls = asked_calls(action)
        if not calls:
            told = {"role": "user", "content": which_tools(self.tools)}
            return EnvironmentStep(messages=[told], reward=None, terminated=False)
        messages: list[Message] = []
        outputs: list[Mapping[str, Any]] = []
        for call in calls:
            output = None if call.arguments is None else await self._output_of(call)
            if output is None:
                messages.append(no_object(call))
            elif isinstance(output, str):
                messages.append(tool_answer(call, output))
            else:
                messages.append(tool_answer(call, text_of_blocks(output["blocks"])))
                outputs.append(output)
            if self._is_finished:
                break
        return EnvironmentStep(
            messages=messages,
            reward=joined([self._reward_of(output) for output in outputs]),
            terminated=self._is_finished,
            info=(outputs[-1].get("metadata") or {}) if outputs else {},
        )

    async def _output_of(self, call: AskedCall) -> Mapping[str, Any] | str:
        """What the tool gave; or why there is no such call, for the agent."""
        what = f"the answer of {call.name!r}"
        answer = await self._session.call(call, what=what)
        if not answer.get("ok"):
            return f"error: {answer.get('error')}"
        with self._session.reading(answer, what):
            output = answer["output"]
            text_of_blocks(output["blocks"])
        self._earned.add(self._reward_of(output))
        self._is_finished = bool(output.get("finished"))
        return output

    def _reward_of(self, output: Mapping[str, Any]) -> float | None:
        return reward_of(output.get("reward"), where=f"ORS environment {self._session.name}")

    async def evaluate(self, *, sparse: bool = False) -> float:
        return self._earned.worth(sparse=sparse)

    async def release(self) -> None:
        await self._session.end()
