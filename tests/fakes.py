"""Stand-ins for the parts that need weights: a scripted engine and a byte tokenizer.

The engine stands where a model would sample, so that rollouts run in milliseconds and say what the
test decides. The tokenizer stands for a Hugging Face tokenizer; its templates are rendered by
jinja2 as the real ones are. The stepper stands for what an engine's thread does, pass by pass;
recorded passes that need torch have a file of their own, `late_card.py`.
Servers with traces stand for those of others, over real HTTP.
"""

import asyncio
import base64
import itertools
import math
import queue
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jinja2
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from astuner.engine.protocol import Observe, Sampling
from astuner.engine.sampled import SampledTokens
from astuner.types import Completion

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
FORGETFUL = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and not loop.last %}(gone){% else %}{{ m.content }}{% endif %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Rewrites history: an answer disappears once something follows it."""

_SPECIALS = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
CHANNEL_TOKENS = (
    "<|return|>",
    "<|call|>",
    "<|start|>",
    "<|end|>",
    "<|channel|>",
    "<|message|>",
    "<|constrain|>",
)
"""Of a model that writes in channels; their ids begin at 259."""


class ByteTokenizer:
    """One id a byte, and one for each special token."""

    name_or_path = "byte-tokenizer"
    eos_token_id = 257
    all_special_ids = (256, 257, 258)

    def __init__(self, chat_template: str = CHATML, *, more_tokens: Sequence[str] = ()) -> None:
        self.chat_template = chat_template
        self._specials = (*_SPECIALS, *more_tokens)
        named = (special.encode() for special in self._specials)
        self._utf8 = [*(bytes([byte]) for byte in range(256)), *named]
        self._split = re.compile("(" + "|".join(map(re.escape, self._specials)) + ")")
        self._template = jinja2.Environment().from_string(chat_template)

    def apply_chat_template(
        self, messages, *, tools=None, add_generation_prompt=False, tokenize=False, **values
    ):
        assert not tokenize
        return self._template.render(
            messages=messages, tools=tools, add_generation_prompt=add_generation_prompt, **values
        )

    def encode(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        ids: list[int] = []
        for piece in self._split.split(text):
            is_special = piece in self._specials
            ids += [256 + self._specials.index(piece)] if is_special else piece.encode()
        return ids

    def decode(self, ids: Sequence[int], **_options) -> str:
        return b"".join(map(self._utf8.__getitem__, ids)).decode(errors="replace")

    def convert_ids_to_tokens(self, id_: int) -> str:
        return f"<0x{id_:02X}>"

    def get_added_vocab(self) -> dict[str, int]:
        return {special: 256 + i for i, special in enumerate(self._specials)}


class ScriptedEngine:
    """Answers with what `script` returns for the text of the prompt, then the end token, unless it
    ends with one.

    `script` may be a function of the prompt's text, or a list of answers given in order. The log-
    probability of the i-th sampled token is -(i + 1) / 10. Keeps what it saw in `seen`. With
    `piece_seconds`, also 0, the event loop has its turn between two pieces.
    """

    weight_version = 0

    def __init__(
        self,
        script: Callable[[str], str] | Sequence[str],
        *,
        tokenizer: ByteTokenizer | None = None,
        delay_seconds: float = 0.0,
        pieces: Sequence[int] = (1,),
        piece_seconds: float | None = None,
    ) -> None:
        self._tokenizer = tokenizer or ByteTokenizer()
        self._answers = None if callable(script) else list(script)
        self._script = script
        self._delay_seconds = delay_seconds
        self.pieces = pieces
        self._piece_seconds = piece_seconds
        self.seen: list[tuple[tuple[int, ...], Completion]] = []
        self.running = 0
        self.most_running = 0
        self.cancelled = 0
        self.indices: list[int] = []

    async def generate(
        self,
        prompt_ids: Sequence[int],
        sampling: Sampling,
        *,
        caller: str,
        index: int,
        observe: Observe | None = None,
    ) -> Completion:
        self.indices.append(index)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            await asyncio.sleep(self._delay_seconds)
            completion = self._complete(self._answer(prompt_ids), sampling)
            if observe is not None:
                completion = await self._stream(completion, observe)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1
        self.seen.append((tuple(prompt_ids), completion))
        return completion

    async def _stream(self, completion: Completion, observe: Observe) -> Completion:
        """Tell the ids in pieces of `self.pieces` tokens, until no more are wanted."""
        told = 0
        for size in itertools.cycle(self.pieces):
            if self._piece_seconds is not None:
                await asyncio.sleep(self._piece_seconds)
            piece = completion.ids[told : told + size]
            told += len(piece)
            if not piece or observe(piece):
                break
        return completion.until(told, completion.finish_reason)

    def _answer(self, prompt_ids: Sequence[int]) -> str:
        if self._answers is not None:
            return self._answers.pop(0)
        return self._script(self._tokenizer.decode(prompt_ids))

    def _complete(self, answer: str, sampling: Sampling) -> Completion:
        ids = self._tokenizer.encode(answer)
        if not ids or ids[-1] not in sampling.stop_ids:
            ids.append(self._tokenizer.eos_token_id)
        ids = ids[: sampling.max_new_tokens]
        tops = tuple(((65, -0.1), (66, -0.1), (67, -math.inf)) for _ in ids)
        num_top = sampling.num_top_logprobs
        return Completion(
            ids=tuple(ids),
            top_logprobs=tuple(top[:num_top] for top in tops) if num_top else None,
            logprobs=tuple(-(i + 1) / 10 for i in range(len(ids))),
            finish_reason="stop" if ids[-1] in sampling.stop_ids else "length",
            weight_version=self.weight_version,
        )


class UnrecordableGraphs:
    """Recorded passes of a GPU, of which none can be recorded; real ones need a GPU."""

    can_record = True
    has_recorded = False
    layers = None
    num_tries = 0

    def run(self, *_: object, **__: object) -> None:
        self.num_tries += 1
        self.can_record = False

    def keep(self, chosen: object) -> object:
        return chosen

    def forget(self) -> None:
        pass


class ScriptedStepper:
    """Finishes requests, which are names, in the passes that the test lets happen.

    The tokens of a request are the codes of its characters.
    """

    def __init__(self) -> None:
        self.running: list[str] = []
        self.cancelled: list[str] = []
        self.is_in_pass = threading.Event()
        self._passes: queue.SimpleQueue[Sequence[str] | BaseException | None] = queue.SimpleQueue()
        self._no_words: BaseException | None = None

    def let_pass(self, *finished: str) -> None:
        """One pass finishes these."""
        self._passes.put(finished)

    def let_all_pass(self) -> None:
        """All further passes finish nothing, and wait for nothing."""
        self._passes.put(None)

    def let_fail(self, error: BaseException) -> None:
        """One pass raises this."""
        self._passes.put(error)

    def let_explaining_fail(self, error: BaseException) -> None:
        """`explain` raises this."""
        self._no_words = error

    @property
    def has_work(self) -> bool:
        return bool(self.running)

    def add(self, requests: Sequence[str]) -> None:
        self.running += requests

    def cancel(self, requests: Sequence[str]) -> None:
        self.cancelled += requests
        self.running = [name for name in self.running if name not in requests]

    def step(self) -> list[tuple[str, SampledTokens]]:
        if not self.running:
            return []
        self.is_in_pass.set()
        outcome = self._passes.get(timeout=30)
        self.is_in_pass.clear()
        if isinstance(outcome, BaseException):
            raise outcome
        if outcome is None:
            self.let_all_pass()
            return []
        self.running = [name for name in self.running if name not in outcome]
        return [(name, tokens_of(name)) for name in outcome]

    def explain(self, error: BaseException) -> str:
        if self._no_words is not None:
            raise self._no_words
        return f"the pass failed with {error!r}"


class LoggingStepper:
    """Finishes a request, which is a name, in as many passes as the name has characters.

    `log` may be shared; each pass adds the name of the stepper and those of its requests.
    """

    def __init__(self, name: str, log: list[tuple[str, ...]]) -> None:
        self._name = name
        self._log = log
        self._left: dict[str, int] = {}

    @property
    def has_work(self) -> bool:
        return bool(self._left)

    def add(self, requests: Sequence[str]) -> None:
        self._left |= {name: len(name) for name in requests}

    def cancel(self, requests: Sequence[str]) -> None:
        for name in requests:
            self._left.pop(name, None)

    def step(self) -> list[tuple[str, SampledTokens]]:
        self._log.append((self._name, *sorted(self._left)))
        self._left = {name: left - 1 for name, left in self._left.items()}
        done = [name for name, left in self._left.items() if not left]
        self.cancel(done)
        return [(name, tokens_of(name)) for name in done]

    def explain(self, error: BaseException) -> str:
        return repr(error)


def tokens_of(name: str) -> SampledTokens:
    ids = tuple(map(ord, name))
    return SampledTokens(ids, (-1.0,) * len(ids), ((),) * len(ids), is_cut=False)


class LoopThatHoldsAThread(asyncio.SelectorEventLoop):
    """Keeps the thread of that name, once it calls back here, until `go` is set."""

    def __init__(self, thread_name: str) -> None:
        super().__init__()
        self._thread_name = thread_name
        self.is_holding = threading.Event()
        self.go = threading.Event()

    def call_soon_threadsafe(self, callback, *args, **options) -> asyncio.Handle:
        if threading.current_thread().name == self._thread_name:
            self.is_holding.set()
            self.go.wait(timeout=30)
        return super().call_soon_threadsafe(callback, *args, **options)


@dataclass
class PhoenixStandIn:
    """Speaks as the REST interface of Phoenix 20.26, which a real one was compared with."""

    spans: list[dict[str, Any]]
    """With growing numbers."""
    span_annotations: list[dict[str, Any]] = field(default_factory=list)
    trace_annotations: list[dict[str, Any]] | None = None
    """None: such a server is older, and answers with its page."""
    key: str | None = None
    page: int = 2
    """Spans at once, whatever is asked for."""

    def __post_init__(self) -> None:
        project = "/v1/projects/{project}"
        self.app = Starlette(
            routes=[
                Route("/v1/projects", self._projects),
                Route(f"{project}/spans", self._spans),
                Route(f"{project}/span_annotations", self._of_spans),
                Route(f"{project}/trace_annotations", self._of_traces),
            ]
        )

    async def _projects(self, request: Request) -> Response:
        project = {"id": "UHJvamVjdDox", "name": "default"}
        return self._answer(request, {"data": [project], "next_cursor": None})

    async def _spans(self, request: Request) -> Response:
        if request.path_params["project"] not in ("UHJvamVjdDox", "default"):
            return Response("Project with identifier ... not found", status_code=404)
        newest_first = self.spans[::-1]
        ids = [span["id"] for span in newest_first]
        cursor = request.query_params.get("cursor")
        start = ids.index(cursor) if cursor else 0
        end = start + self.page
        following = ids[end] if end < len(ids) else None
        return self._answer(request, {"data": newest_first[start:end], "next_cursor": following})

    async def _of_spans(self, request: Request) -> Response:
        asked = request.query_params.getlist("span_ids")
        found = [one for one in self.span_annotations if one["span_id"] in asked]
        return self._answer(request, {"data": found, "next_cursor": None})

    async def _of_traces(self, request: Request) -> Response:
        if self.trace_annotations is None:
            return HTMLResponse("<title>Phoenix</title>")
        asked = request.query_params.getlist("trace_ids")
        found = [one for one in self.trace_annotations if one["trace_id"] in asked]
        return self._answer(request, {"data": found, "next_cursor": None})

    def _answer(self, request: Request, told: Any) -> Response:
        headers = {"x-phoenix-server-version": "20.26.1"}
        if self.key and request.headers.get("authorization") != f"Bearer {self.key}":
            return Response("Invalid token", status_code=401, headers=headers)
        return JSONResponse(told, headers=headers)


@dataclass
class MlflowStandIn:
    """Speaks as the REST interface of MLflow 3.17, which a real one was compared with."""

    infos: list[dict[str, Any]]
    spans: dict[str, list[dict[str, Any]]]
    """Of each trace, as protobuf's JSON."""
    in_files: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Of traces whose spans are kept in files."""
    asked: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        search = "/api/3.0/mlflow/traces/search"
        self.app = Starlette(
            routes=[
                Route("/version", self._version),
                Route("/api/2.0/mlflow/experiments/search", self._experiments, methods=["POST"]),
                Route(search, self._search, methods=["POST"]),
                Route("/api/3.0/mlflow/traces/batchGet", self._traces),
                Route("/ajax-api/2.0/mlflow/get-trace-artifact", self._artifact),
            ]
        )

    async def _version(self, request: Request) -> Response:
        return HTMLResponse("3.17.2")

    async def _experiments(self, request: Request) -> Response:
        return JSONResponse({"experiments": [{"experiment_id": "7", "name": "shop"}]})

    async def _search(self, request: Request) -> Response:
        """One trace a page."""
        body = await request.json()
        self.asked.append(body)
        start = int(body.get("page_token") or 0)
        answer: dict[str, Any] = {"traces": self.infos[start : start + 1]}
        if start + 1 < len(self.infos):
            answer["next_page_token"] = str(start + 1)
        return JSONResponse(answer)

    async def _traces(self, request: Request) -> Response:
        asked = request.query_params.getlist("trace_ids")
        found = [
            {"trace_info": {"trace_id": name}, "spans": self.spans[name]}
            for name in asked
            if name in self.spans
        ]
        return JSONResponse({"traces": found})

    async def _artifact(self, request: Request) -> Response:
        name = request.query_params["request_id"]
        return JSONResponse({"spans": self.in_files.get(name, [])})


@dataclass
class LangfuseStandIn:
    """Speaks as the OpenAPI document of Langfuse says; no real one was compared with.

    One row a page.
    """

    observations: list[dict[str, Any]] | None = None
    """None: such a server is older than version 4 and has the next ones instead."""
    traces: list[dict[str, Any]] = field(default_factory=list)
    scores: list[dict[str, Any]] = field(default_factory=list)
    has_scores_by_cursor: bool = True
    asked: list[Mapping[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        routes = [
            Route("/api/public/health", self._health),
            Route("/api/public/traces", self._traces),
            Route("/api/public/traces/{name}", self._trace),
            Route("/api/public/v2/scores", self._numbered_scores),
        ]
        if self.observations is not None:
            routes.append(Route("/api/public/v2/observations", self._observations))
        if self.has_scores_by_cursor:
            routes.append(Route("/api/public/v3/scores", self._scores))
        self.app = Starlette(routes=routes)

    async def _health(self, request: Request) -> Response:
        return JSONResponse({"status": "OK", "version": "4.0.0"})

    async def _observations(self, request: Request) -> Response:
        return self._by_cursor(request, self.observations or [])

    async def _scores(self, request: Request) -> Response:
        return self._by_cursor(request, self.scores)

    async def _numbered_scores(self, request: Request) -> Response:
        return self._by_number(request, self.scores)

    async def _traces(self, request: Request) -> Response:
        return self._by_number(request, [{"id": one["id"]} for one in self.traces])

    async def _trace(self, request: Request) -> Response:
        found = [one for one in self.traces if one["id"] == request.path_params["name"]]
        return self._answer(request, found[0])

    def _by_cursor(self, request: Request, rows: list[dict[str, Any]]) -> Response:
        start = int(request.query_params.get("cursor") or 0)
        meta = {"cursor": str(start + 1)} if start + 1 < len(rows) else {}
        return self._answer(request, {"data": rows[start : start + 1], "meta": meta})

    def _by_number(self, request: Request, rows: list[dict[str, Any]]) -> Response:
        page = int(request.query_params["page"])
        meta = {"page": page, "limit": 1, "totalItems": len(rows), "totalPages": len(rows)}
        return self._answer(request, {"data": rows[page - 1 : page], "meta": meta})

    def _answer(self, request: Request, told: Any) -> Response:
        self.asked.append({"path": request.url.path, **request.query_params})
        expected = base64.b64encode(b"pk-lf-1:sk-lf-2").decode()
        if request.headers.get("authorization") != f"Basic {expected}":
            return JSONResponse({"message": "Invalid credentials"}, status_code=401)
        return JSONResponse(told)
