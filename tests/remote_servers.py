"""Small servers that speak as those of environments do, over real HTTP and WebSocket."""

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

CLOSED_PORT_URL = "http://127.0.0.1:9"
"""Nobody listens at the port of discarding, which no program is given."""
TEXT_SCHEMA = {
    "type": "object",
    "properties": {"message": {"type": "string"}, "metadata": {"type": "object"}},
    "required": ["message"],
}


@contextlib.contextmanager
def served(app: Starlette) -> Iterator[str]:
    """Its URL. In a thread of its own: the loop of the test may block, or be over."""
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_level="error", lifespan="off", ws="websockets-sansio")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = server.force_exit = True
        thread.join(timeout=30)
        listening.close()


def observed(text: str, reward: float | None = None, *, done: bool = False) -> dict[str, Any]:
    """The answer of an OpenEnv server to a reset or a step."""
    data = {"observation": {"text": text}, "reward": reward, "done": done}
    return {"type": "observation", "data": data}


def refused(code: str, message: str = "no", **more: Any) -> dict[str, Any]:
    return {"type": "error", "data": {"code": code, "message": message, **more}}


@dataclass
class OpenEnvStandIn:
    """Answers each message with what `script` gives for it: an answer, text as it is, or, for None,
    the end of the connection; "nothing" is never answered."""

    script: Callable[[Mapping[str, Any]], dict[str, Any] | str | None]
    schema: Any = field(default_factory=lambda: {"action": TEXT_SCHEMA})
    tasks: Mapping[str, int] | None = None
    """By split; None: such a server has no list of tasks."""
    received: list[Mapping[str, Any]] = field(default_factory=list)
    headers: list[Mapping[str, str]] = field(default_factory=list)
    num_ended: int = 0

    def __post_init__(self) -> None:
        self.app = Starlette(
            routes=[
                Route("/schema", self._schema),
                Route("/list_environments", self._names),
                Route("/Maze/splits", self._splits),
                Route("/Maze/num_tasks", self._count, methods=["POST"]),
                WebSocketRoute("/ws", self._session),
            ]
        )

    async def _schema(self, request: Request) -> Response:
        self.headers.append(dict(request.headers))
        return Response(self.schema) if isinstance(self.schema, str) else JSONResponse(self.schema)

    async def _names(self, request: Request) -> Response:
        return Response(status_code=404) if self.tasks is None else JSONResponse(["Maze"])

    async def _splits(self, request: Request) -> Response:
        return JSONResponse([{"name": name, "type": "train"} for name in self.tasks or ()])

    async def _count(self, request: Request) -> Response:
        return JSONResponse({"num_tasks": (self.tasks or {})[(await request.json())["split"]]})

    async def _session(self, websocket: WebSocket) -> None:
        await websocket.accept()
        self.headers.append(dict(websocket.headers))
        try:
            while True:
                message = json.loads(await websocket.receive_text())
                if message["type"] == "close":
                    await websocket.close()
                    break
                self.received.append(message)
                answer = self.script(message)
                if answer is None:
                    await websocket.close()
                    break
                if answer != "nothing":
                    text = answer if isinstance(answer, str) else json.dumps(answer)
                    await websocket.send_text(text)
        except WebSocketDisconnect:
            pass
        finally:
            self.num_ended += 1


def event(name: str, data: str) -> bytes:
    """Of a stream of server-sent events."""
    return f"event: {name}\r\ndata: {data}\r\n\r\n".encode()


@dataclass
class OrsStandIn:
    """Behaves as servers of the Open Reward Standard do, of which the real ones are played in
    tests/environments.

    `script` gives the stream of a call, which ends the connection where it stops before its end;
    `resumed` that of a call that is taken up again.
    """

    script: Callable[[Mapping[str, Any]], list[bytes | float]] = lambda body: tool_result("ok")
    resumed: Callable[[str], list[bytes | float]] = lambda task_id: []
    prompt: Any = field(default_factory=lambda: [{"type": "text", "text": "2 + 3?"}])
    has_task_tools: bool = True
    num_starting: int = 0
    """Requests for the prompt that are told to come again."""
    create_status: int = 200
    num_tasks: int = 2
    calls: list[Mapping[str, Any]] = field(default_factory=list)
    created: list[Mapping[str, Any]] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    keys: set[str | None] = field(default_factory=set)

    def __post_init__(self) -> None:
        routes: dict[str, Any] = {
            "/list_environments": self._names,
            "/sums/splits": self._splits,
            "/sums/num_tasks": self._count,
            "/create_session": self._open,
            "/create": self._create,
            "/sums/prompt": self._prompt,
            "/sums/tools": self._tools,
            "/sums/call": self._call,
            "/delete": self._end,
            "/delete_session": self._end,
        }
        if self.has_task_tools:
            routes["/sums/task_tools"] = self._tools
        methods = ["GET", "POST"]
        self.app = Starlette(
            routes=[Route(path, answer, methods=methods) for path, answer in routes.items()]
        )

    async def _names(self, request: Request) -> Response:
        self.keys.add(request.headers.get("x-api-key"))
        return JSONResponse(["sums"])

    async def _splits(self, request: Request) -> Response:
        return JSONResponse([{"name": "train", "type": "train"}])

    async def _count(self, request: Request) -> Response:
        return JSONResponse({"num_tasks": self.num_tasks})

    async def _open(self, request: Request) -> Response:
        self.keys.add(request.headers.get("x-api-key"))
        return _stream([event("task_id", "s1"), event("end", "")])

    async def _create(self, request: Request) -> Response:
        self.created.append(await request.json())
        body = {"sid": request.headers["x-session-id"], "detail": "Invalid index"}
        return JSONResponse(body, status_code=self.create_status)

    async def _prompt(self, request: Request) -> Response:
        if self.num_starting:
            self.num_starting -= 1
            return Response(status_code=503, headers={"retry-after": "0"})
        return JSONResponse(self.prompt)

    async def _tools(self, request: Request) -> Response:
        tool = {"name": "submit", "description": "Hand in.", "input_schema": None}
        return JSONResponse({"tools": [tool]})

    async def _call(self, request: Request) -> Response:
        body = await request.json()
        self.calls.append(body)
        return _stream(self.resumed(body["task_id"]) if "task_id" in body else self.script(body))

    async def _end(self, request: Request) -> Response:
        self.ended.append(f"{request.url.path} {request.headers['x-session-id']}")
        return JSONResponse({})


def tool_result(text: str, reward: float | None = None, *, finished: bool = False) -> list[Any]:
    """The stream of a call, in pieces as servers send them."""
    output = {"blocks": [{"type": "text", "text": text}], "metadata": {"n": 1}, "reward": reward}
    result = json.dumps(
        {"ok": True, "output": {**output, "finished": finished}}, ensure_ascii=False
    )
    half = len(result) // 2
    return [
        event("task_id", "t1"),
        b": ping\r\n\r\n",
        event("chunk", result[:half]),
        event("end", result[half:]),
    ]


def _stream(parts: list[bytes | float]) -> StreamingResponse:
    async def sent() -> AsyncIterator[bytes]:
        for part in parts:
            if isinstance(part, float):
                await asyncio.sleep(part)
            else:
                yield part

    return StreamingResponse(sent(), media_type="text/event-stream")
