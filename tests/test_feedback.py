"""What people say of a reply over HTTP, and where it is kept."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette

from astuner.model_server.feedback import AnsweredCalls, FeedbackDesk
from astuner.model_server.recording import CallRecorder, RecordingOptions
from astuner.serving.keys import presented_key
from astuner.serving.refusal import Refusal
from tests.traces import recorded, served_call

MAIL = "erika.muster@firma-nord.de"


def key_of(headers: dict[bytes, bytes]) -> str:
    key = presented_key(headers)
    if not key.startswith("key-"):
        raise Refusal(401, "no such key", code="invalid_api_key")
    return key


class Desk:
    """A desk for feedback with a client whose key is key-1."""

    def __init__(self, folder: Path, *, is_masked: bool = False) -> None:
        options = RecordingOptions(folder=folder, is_masked=is_masked, max_mb=None, version="1")
        self.folder = folder
        self.recorder = CallRecorder(options)
        self.answered = AnsweredCalls()
        self.answered.read_back(folder)
        self.desk = FeedbackDesk(self.recorder, self.answered, key_of)
        self._transport = httpx.ASGITransport(Starlette(routes=[self.desk.route()]))

    def answer(self, **changed: Any) -> None:
        for observer in (self.recorder, self.answered):
            observer.served(served_call(**changed))

    def say(self, body: Any, *, key: str = "key-1", content: bytes | None = None) -> httpx.Response:
        given: dict[str, Any] = {"json": body} if content is None else {"content": content}

        async def post() -> httpx.Response:
            async with httpx.AsyncClient(transport=self._transport) as client:
                headers = {"authorization": f"Bearer {key}"}
                return await client.post("http://server/v1/feedback", headers=headers, **given)

        return asyncio.run(post())

    def said(self) -> list[dict[str, Any]]:
        self.recorder.close(seconds=20)
        return recorded(self.folder, "feedback")


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path)
    yield desk
    desk.recorder.close(seconds=20)


@pytest.mark.parametrize(
    ("path", "call_id"),
    [
        ("/v1/chat/completions", "chatcmpl-a1"),
        ("/v1/completions", "cmpl-a1"),
        ("/v1/responses", "resp_a1"),
        ("/v1/messages", "msg_a1"),
    ],
)
def test_feedback_on_an_answer_of_each_wire_format_names_its_span(
    desk: Desk, path: str, call_id: str
) -> None:
    desk.answer(call_id="a1", path=path)
    answer = desk.say({"id": call_id, "score": 0.5, "label": "good", "comment": "nice"})
    assert answer.status_code == 200 and answer.json()["answer_id"] == call_id
    [event] = desk.said()
    [span] = recorded(desk.folder, "traces")
    assert span["attributes"]["gen_ai.response.id"] == call_id
    assert (event["traceId"], event["spanId"]) == (span["traceId"], span["spanId"])
    assert event["eventName"] == "gen_ai.evaluation.result" and event["severityNumber"] == 9
    told = event["attributes"]
    assert told.pop("astuner.feedback.id") in answer.json()["id"]
    assert told == {
        "gen_ai.response.id": call_id,
        "gen_ai.evaluation.name": "user_feedback",
        "gen_ai.evaluation.score.value": 0.5,
        "gen_ai.evaluation.score.label": "good",
        "gen_ai.evaluation.explanation": "nice",
    }


def test_several_opinions_are_kept_and_an_exact_repeat_is_one(desk: Desk) -> None:
    desk.answer(call_id="chatcmpl-a1")
    bodies: list[dict[str, Any]] = [
        {"id": "chatcmpl-a1", "label": "good", "by": "ann"},
        {"id": "chatcmpl-a1", "label": "bad", "by": "bob"},
        {"id": "chatcmpl-a1", "label": "good", "by": "ann"},
    ]
    ids = [desk.say(body).json()["id"] for body in bodies]
    assert ids[0] == ids[2] != ids[1] and desk.desk.num_taken == 2
    assert [event["attributes"]["user.id"] for event in desk.said()] == ["ann", "bob"]


def test_what_people_write_is_masked_too(tmp_path: Path) -> None:
    desk = Desk(tmp_path, is_masked=True)
    desk.answer(call_id="chatcmpl-a1")
    body = {"id": "chatcmpl-a1", "score": 1, "comment": f"ask {MAIL}", "by": MAIL}
    assert desk.say(body).status_code == 200
    [event] = desk.said()
    assert event["attributes"]["gen_ai.evaluation.explanation"] == "ask [email]"
    assert event["attributes"]["user.id"] == "[email]"


def test_only_the_key_of_a_recorded_answer_may_speak_of_it(desk: Desk) -> None:
    desk.answer(call_id="chatcmpl-a1")
    desk.answer(call_id="chatcmpl-private", is_recordable=False)
    desk.answer(call_id="chatcmpl-failed", status=500, error="engine stopped", reply=None)
    good = {"id": "chatcmpl-a1", "score": 1}
    assert desk.say(good, key="other").status_code == 401
    for key, call_id in (
        ("key-2", "chatcmpl-a1"),
        ("key-1", "chatcmpl-private"),
        ("key-1", "chatcmpl-failed"),
        ("key-1", "chatcmpl-never"),
    ):
        answer = desk.say({**good, "id": call_id}, key=key)
        assert answer.status_code == 404 and answer.json()["error"]["code"] == "unknown_answer"
    assert desk.said() == []


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"score": 1}, "id"),
        ({"id": "chatcmpl-a1"}, "score"),
        ({"id": "chatcmpl-a1", "score": True}, "score"),
        ({"id": "chatcmpl-a1", "score": "1"}, "score"),
        ({"id": "chatcmpl-a1", "label": "x" * 65}, "label"),
        ({"id": "chatcmpl-a1", "label": ["good"]}, "label"),
        ({"id": "chatcmpl-a1", "comment": "x" * 10_001}, "comment"),
        ({"id": "chatcmpl-a1", "score": 1, "rating": 5}, "rating"),
    ],
)
def test_feedback_that_cannot_be_kept_is_refused_by_its_field(
    desk: Desk, body: dict[str, Any], param: str
) -> None:
    desk.answer(call_id="chatcmpl-a1")
    answer = desk.say(body)
    assert answer.status_code == 400 and answer.json()["error"]["param"] == param


def test_a_body_that_is_no_feedback_is_refused(desk: Desk) -> None:
    assert desk.say(None, content=b"not json").status_code == 400
    assert desk.say(None, content=b"x" * 64_001).status_code == 413


def test_feedback_that_the_disk_refuses_is_not_confirmed_and_may_come_again(
    desk: Desk,
) -> None:
    desk.answer(call_id="chatcmpl-a1")
    body = {"id": "chatcmpl-a1", "score": 1}
    desk.recorder.close(seconds=20)
    answer = desk.say(body)
    assert answer.status_code == 503 and answer.headers["retry-after"] == "10"
    again = Desk(desk.folder)
    assert again.say(body).status_code == 200
    assert len(again.said()) == 1


def test_only_the_last_answers_are_remembered() -> None:
    answered = AnsweredCalls(max_calls=2)
    for call_id in ("a", "b", "c"):
        answered.note(call_id, "k")
    assert [answered.has(call_id, "k") for call_id in ("a", "b", "c")] == [False, True, True]
