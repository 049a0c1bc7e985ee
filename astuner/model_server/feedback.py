"""What people say of a reply, by its id: `POST /v1/feedback`.

Kept beside the traces as log records of the event `gen_ai.evaluation.result`, which name the span
of the call. Source: open-telemetry/semantic-conventions-genai, docs/gen-ai/gen-ai-events.md.
"""

import asyncio
import hashlib
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from pathlib import Path

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from astuner.gateway.refusals import bad_request
from astuner.gateway.wires.body import Fields, fields_of, parse_body
from astuner.gateway.wires.shared import openai_error
from astuner.model_server.answer_ids import answer_of, span_id, trace_id
from astuner.model_server.call_metrics import MeterReading
from astuner.model_server.call_span import CALL_ID, KEY
from astuner.model_server.recording import CallRecorder
from astuner.model_server.served_call import ServedCall
from astuner.serving.answer import json_answer, refused
from astuner.serving.bounds import read_body
from astuner.serving.json_text import JSON, to_json
from astuner.serving.refusal import Refusal
from astuner.traces.otlp_json import attributes, nanoseconds
from astuner.traces.trace_files import files_of

PATH = "/v1/feedback"
EVENT = "gen_ai.evaluation.result"
_NAME = "user_feedback"
"""Of the evaluation."""
_INFO = 9
"""SEVERITY_NUMBER_INFO"""
_MAX_BODY_BYTES = 64_000
_MAX_CHARACTERS = {"id": 200, "label": 64, "comment": 10_000, "by": 200}
_MAX_CALLS = 100_000
_MAX_REPEATS = 10_000
_READ_BACK_BYTES = 256_000_000
"""Of the newest traces, in which answers before the start are looked up: a second."""
_ID_AND_KEY = re.compile(
    rb'"%s", "value": \{"stringValue": "([^"\\]{1,200})"\}\}, '
    rb'\{"key": "%s", "value": \{"stringValue": "([^"\\]{0,200})"'
    % (re.escape(CALL_ID).encode(), re.escape(KEY).encode())
)
_WRITE_SECONDS = 10.0
KeyOf = Callable[[dict[bytes, bytes]], str]
"""What `ServedCall.key` holds for calls with these headers. Raises Refusal."""
_TELL = "tell what you think by score, label or comment"


class AnsweredCalls:
    """Which calls were answered, and to which key; the last so many. See `CallObserver`."""

    def __init__(self, max_calls: int = _MAX_CALLS) -> None:
        self._max_calls = max_calls
        self._keys: dict[bytes, str] = {}

    def served(self, call: ServedCall) -> None:
        if call.is_recordable and call.messages and call.is_answered:
            self.note(call.call_id, call.key)

    def note(self, call_id: str, key: str) -> None:
        self._keys[_digest(answer_of(call_id))] = key
        if len(self._keys) > self._max_calls:
            del self._keys[next(iter(self._keys))]

    def read_back(self, folder: Path) -> None:
        """Those of earlier starts, from the newest traces of the folder."""
        left, files = _READ_BACK_BYTES, []
        for path in reversed(files_of(folder, "traces")):
            files.append(path)
            left -= path.stat().st_size
            if left <= 0:
                break
        for path in reversed(files):
            with path.open("rb") as lines:
                for line in lines:
                    if found := _ID_AND_KEY.search(line, 0, 2_000):
                        self.note(found[1].decode(), found[2].decode())

    def has(self, call_id: str, key: str) -> bool:
        """Whether it was answered to this key, that it is known of."""
        return self._keys.get(_digest(answer_of(call_id))) == key


@dataclass(frozen=True, slots=True, kw_only=True)
class Feedback:
    """One opinion of one reply."""

    id: str
    """Of the answer."""
    score: float | None
    label: str
    """Empty: none was given; so the next two."""
    comment: str
    by: str

    def digest(self) -> str:
        """The same for what was sent twice."""
        return hashlib.blake2b(to_json(asdict(self)), digest_size=16).hexdigest()


def read_feedback(body: JSON) -> Feedback:
    """Raises Refusal for one that cannot be kept."""
    with fields_of(body) as fields:
        score = fields.number("score")
        texts = {name: _text(fields, name) for name in _MAX_CHARACTERS}
        feedback = Feedback(score=score, **texts)
        if not feedback.id:
            fields.refuse(bad_request("id is missing; name the id of the answer", param="id"))
        if score is None and not feedback.label and not feedback.comment:
            fields.refuse(bad_request(f"nothing is said of the answer; {_TELL}", param="score"))
    return feedback


def _text(fields: Fields, name: str) -> str:
    text, most = fields.text(name), _MAX_CHARACTERS[name]
    if len(text) > most:
        problem = f"{name} has {len(text)} characters; expected at most {most}"
        fields.refuse(bad_request(problem, param=name))
    return text


class FeedbackDesk:
    """Takes feedback on answered calls and has it written."""

    def __init__(
        self,
        recorder: CallRecorder,
        answered: AnsweredCalls,
        key_of: Callable[[dict[bytes, bytes]], str],
    ) -> None:
        self._recorder = recorder
        self._answered = answered
        self._key_of = key_of
        self._taken: dict[str, Future[None]] = {}
        """By digest, the last ones, so that what is sent twice is written once."""
        self.num_taken = 0

    def route(self) -> Route:
        return Route(PATH, self._answer, methods=["POST"])

    def readings(self) -> Iterator[MeterReading]:
        """For the metrics of the server."""
        told = "opinions of answers that were taken, each once"
        yield MeterReading(name="feedback_total", told=told, value=self.num_taken, kind="counter")

    async def _answer(self, request: Request) -> Response:
        try:
            headers = dict(request.scope["headers"])
            key = self._key_of(headers)
            body = await read_body(
                headers, request.receive, max_bytes=_MAX_BODY_BYTES, setting="of feedback"
            )
            return json_answer(await self._take(read_feedback(parse_body(body)), key))
        except ClientDisconnect:
            return Response(status_code=400)  # which nobody reads
        except Refusal as refusal:
            return refused(refusal, openai_error)

    async def _take(self, feedback: Feedback, key: str) -> JSON:
        if not self._answered.has(feedback.id, key):
            raise Refusal(
                404,
                f"no answer of the id {feedback.id!r} to this key is known here; it has to be one "
                f"that was recorded, among the last {_MAX_CALLS:,}",
                code="unknown_answer",
                param="id",
            )
        digest = feedback.digest()
        await self._keep(feedback, digest)
        return {"id": f"feedback-{digest}", "object": "feedback", "answer_id": feedback.id}

    async def _keep(self, feedback: Feedback, digest: str) -> None:
        written = self._taken.get(digest)
        if written is None:
            written = self._recorder.keep(_event(feedback, digest), _private(feedback))
            self._remember(digest, written)
        try:
            async with asyncio.timeout(_WRITE_SECONDS):
                # Whoever no longer waits for it does not take it back.
                await asyncio.shield(asyncio.wrap_future(written))
        except OSError as error:  # TimeoutError is one
            self._taken.pop(digest, None)
            raise Refusal(
                503,
                "the feedback could not be written now; send it again later",
                code="not_written",
                headers={"retry-after": "10"},
            ) from error

    def _remember(self, digest: str, written: "Future[None]") -> None:
        self.num_taken += 1
        self._taken[digest] = written
        if len(self._taken) > _MAX_REPEATS:
            del self._taken[next(iter(self._taken))]


def _event(feedback: Feedback, digest: str) -> JSON:
    """The log record, without what people wrote."""
    now = nanoseconds(time.time())
    told: JSON = {
        CALL_ID: feedback.id,
        "gen_ai.evaluation.name": _NAME,
        "astuner.feedback.id": digest,
    }
    if feedback.score is not None:
        told["gen_ai.evaluation.score.value"] = feedback.score
    return {
        "timeUnixNano": now,
        "observedTimeUnixNano": now,
        "severityNumber": _INFO,
        "eventName": EVENT,
        "traceId": trace_id(feedback.id),
        "spanId": span_id(feedback.id),
        "attributes": attributes(told),
    }


def _private(feedback: Feedback) -> dict[str, str | None]:
    return {
        "gen_ai.evaluation.score.label": feedback.label or None,
        "gen_ai.evaluation.explanation": feedback.comment or None,
        "user.id": feedback.by or None,
    }


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=8).digest()
