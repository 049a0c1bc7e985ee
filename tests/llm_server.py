"""An OpenAI-compatible server that answers by a script, and a model that asks it."""

import contextlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import Random
from typing import Any

from astuner.llm import LanguageModel
from astuner.llm.answer_cache import AnswerCache
from astuner.llm.budget import Budget
from astuner.llm.limiter import CallLimiter
from astuner.llm.openai_endpoint import OpenAIEndpoint
from astuner.llm.patience import PatientEndpoint
from astuner.llm.retries import Backoff
from astuner.llm.server import LlmServer

KEY = "sk-never-shown"
LONG_SECONDS = 60.0
"""Far above what anything here takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One answer of the server."""

    body: bytes
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    held_by: threading.Event | None = None
    """Sent once this is set."""


def says(
    text: str | None,
    *,
    finish_reason: str = "stop",
    tokens: tuple[int, int] | None = (7, 3),
    held_by: threading.Event | None = None,
) -> Reply:
    """A completion; `tokens` are those of the question and of the answer."""
    message = {"role": "assistant", "content": text}
    return _completion(message, finish_reason, tokens, held_by=held_by)


def calls(name: str, *, tokens: tuple[int, int] | None = (7, 3), **arguments: Any) -> Reply:
    """A completion that calls one tool."""
    function = {"name": name, "arguments": json.dumps(arguments)}
    call = {"id": f"call_{name}", "type": "function", "function": function}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    return _completion(message, "tool_calls", tokens)


def _completion(
    message: dict[str, Any],
    finish_reason: str,
    tokens: tuple[int, int] | None,
    *,
    held_by: threading.Event | None = None,
) -> Reply:
    completion: dict[str, Any] = {
        "id": "c",
        "object": "chat.completion",
        "created": 0,
        "model": "m",
        "choices": [{"index": 0, "message": message, "finish_reason": finish_reason}],
    }
    if tokens is not None:
        asked, answered = tokens
        completion["usage"] = {
            "prompt_tokens": asked,
            "completion_tokens": answered,
            "total_tokens": asked + answered,
        }
    return Reply(body=json.dumps(completion).encode(), held_by=held_by)


def refuses(status: int, message: str = "no", *, code: str | None = None, **headers: str) -> Reply:
    """An error in OpenAI's shape; names of headers have underscores here."""
    error = {"message": message, "type": "error", "param": None, "code": code}
    return Reply(
        body=json.dumps({"error": error}).encode(),
        status=status,
        headers={name.replace("_", "-"): value for name, value in headers.items()},
    )


def answers_as_gpt5(body: Mapping[str, Any]) -> Reply:
    """As OpenAI's models answer that think: one limit has another name, one temperature is all
    there is, and a limit that thinking uses up is an error.

    https://github.com/griptape-ai/ComfyUI-Griptape/issues/312
    https://github.com/spiceai/spiceai/issues/7126
    """
    if "max_tokens" in body:
        return refuses(
            400,
            "Unsupported parameter: 'max_tokens' is not supported with this model. Use "
            "'max_completion_tokens' instead.",
            code="unsupported_parameter",
        )
    if body.get("temperature", 1) != 1:
        return refuses(
            400,
            f"Unsupported value: 'temperature' does not support {body['temperature']} with this "
            "model. Only the default (1) value is supported.",
            code="unsupported_value",
        )
    if body["max_completion_tokens"] < 2:
        return refuses(
            400,
            "Could not finish the message because max_tokens or model output limit was reached. "
            "Please try again with higher max_tokens.",
        )
    return says("5")


Script = Sequence[Reply] | Callable[[dict[str, Any]], Reply]


class ScriptedServer:
    """Answers requests in order of the script, or by a function of their body."""

    def __init__(self, script: Script) -> None:
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.most_at_once = 0
        self._script = script
        self._num_running = 0
        self._lock = threading.Lock()
        self.base_url = ""

    def answer(self, body: dict[str, Any], key: str) -> Reply:
        with self._lock:
            index = len(self.requests)
            self.requests.append(body)
            self.keys.append(key)
            self._num_running += 1
            self.most_at_once = max(self.most_at_once, self._num_running)
        reply = self._reply(index, body)
        if reply.held_by is not None:
            reply.held_by.wait(LONG_SECONDS)
        with self._lock:
            self._num_running -= 1
        return reply

    def _reply(self, index: int, body: dict[str, Any]) -> Reply:
        if callable(self._script):
            return self._script(body)
        return self._script[index] if index < len(self._script) else refuses(400, "script is over")

    def messages(self, index: int) -> list[dict[str, Any]]:
        """Of a request."""
        return self.requests[index]["messages"]


@contextlib.contextmanager
def serving(script: Script, *, listed: bytes = b"") -> Iterator[ScriptedServer]:
    """The server, listening on this machine; `listed` is what it answers to each GET."""
    scripted = ScriptedServer(script)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            key = self.headers["authorization"].removeprefix("Bearer ")
            self._send(scripted.answer(json.loads(body), key))

        def do_GET(self) -> None:
            self._send(Reply(body=listed))

        def _send(self, reply: Reply) -> None:
            with contextlib.suppress(ConnectionError):  # the caller may have gone
                self.send_response(reply.status)
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(reply.body)))
                self.end_headers()
                self.wfile.write(reply.body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.block_on_close = False  # idle connections wait for a next request
    scripted.base_url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield scripted
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Naps:
    """In place of `asyncio.sleep`: takes no time and remembers how long it should have."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


def make_model(
    base_url: str,
    *,
    keys: tuple[str, ...] = (KEY,),
    naps: Naps | None = None,
    limiter: CallLimiter | None = None,
    budget: Budget | None = None,
    cache: AnswerCache | None = None,
    timeout_seconds: float = LONG_SECONDS,
    max_new_tokens: int = 100,
    max_tries: int = 4,
) -> LanguageModel:
    """Asks the model m of a server and waits for nothing between tries."""
    server = LlmServer(base_url=base_url, api_key_env="LLM_KEY", keys=keys)
    endpoint = PatientEndpoint(
        OpenAIEndpoint(server, "m"),
        limiter=limiter or CallLimiter(8),
        budget=budget or Budget(),
        backoff=Backoff(random=Random(1), max_tries=max_tries),
        sleep=naps or Naps(),
    )
    return LanguageModel(
        endpoint, cache=cache, timeout_seconds=timeout_seconds, max_new_tokens=max_new_tokens
    )
