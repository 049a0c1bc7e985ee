"""A model that is served without a run: what it answers, to whom, and what stays of a call."""

import asyncio
import copy
import gc
import json
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import httpx
import pytest

from astuner.config.load import load_for_serving
from astuner.inference.template import ChatTemplate
from astuner.model_server.daily_template import DailyTemplate
from astuner.model_server.load import LoadedModels, ServingOrder, load_models
from astuner.model_server.order import read_orders
from astuner.model_server.recording import RecordingOptions
from tests.model_servers import QUESTION, Talk, talking
from tests.tiny_model import make_tiny_model

CONTEXT = 192


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedModels:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    make_tiny_model(folder, max_positions=CONTEXT)
    return load(str(folder))


def load(*sources: str, adapters: list[tuple[str, str]] | None = None) -> LoadedModels:
    settings = load_for_serving(None).settings
    order = ServingOrder(
        model=settings.model, rollout=settings.rollout, max_len=4096, max_concurrent=10
    )
    orders = read_orders(sources, names=(), adapters=adapters or [])
    return load_models(orders, order, say=lambda text: None)


def served(
    body: Callable[[Talk], Awaitable[None]], loaded: LoadedModels, **options: object
) -> None:
    async def run() -> None:
        async with talking(loaded, **options) as it:
            await body(it)

    asyncio.run(run())


def text_of(response: httpx.Response) -> str:
    assert response.status_code == 200, response.text
    return response.json()["choices"][0]["message"]["content"]


def error_of(response: httpx.Response) -> tuple[int, str | None, str]:
    error = response.json()["error"]
    return response.status_code, error.get("param"), error["message"]


def test_every_wire_says_the_same_and_names_the_model(loaded):
    async def body(it):
        greedy = {"temperature": 0, "max_tokens": 5}
        chat = await it.ask(**greedy)
        messages = await it.post("messages", {"messages": QUESTION, "model": "tiny", **greedy})
        responses = await it.post(
            "responses", {"input": QUESTION, "temperature": 0, "max_output_tokens": 5}
        )
        said = text_of(chat)
        assert messages.json()["content"][0]["text"] == said
        assert responses.json()["output"][0]["content"][0]["text"] == said
        assert {one.json()["model"] for one in (chat, messages, responses)} == {"tiny"}
        plain = await it.post("completions", {"prompt": "What is", **greedy})
        assert plain.json()["usage"]["completion_tokens"] == 5
        streamed = await it.ask(**greedy, stream=True)
        lines = [line[6:] for line in streamed.text.split("\n\n") if line.startswith("data: {")]
        pieces = [json.loads(line)["choices"][0]["delta"].get("content", "") for line in lines]
        assert "".join(pieces) == said
        assert [c.status for c in it.seen.calls] == [200] * 5
        assert [c.seconds_to_first_token is None for c in it.seen.calls] == [True] * 4 + [False]

    served(body, loaded)


def test_a_client_chooses_how_it_is_sampled(loaded):
    async def body(it):
        greedy = text_of(await it.ask(temperature=0))
        assert text_of(await it.ask(temperature=1e-8)) == greedy
        assert text_of(await it.ask(top_k=1)) == text_of(await it.ask(top_p=0)) == greedy
        hot = {"temperature": 2, "max_tokens": 20}
        seeded = [text_of(await it.ask(seed=seed, **hot)) for seed in (7, 7, 8)]
        assert seeded[0] == seeded[1] != seeded[2]
        assert text_of(await it.ask(**hot)) != text_of(await it.ask(**hot))
        temperatures = [call.temperature for call in it.seen.calls[:2]]
        assert temperatures == [0, 0]

    served(body, loaded)


def test_what_cannot_be_sampled_is_refused_by_name(loaded):
    async def body(it):
        wrong = await it.ask(temperature=3, top_p=-1, seed=-1, frequency_penalty=0.5)
        assert wrong.status_code == 400
        for name in ("seed", "frequency_penalty"):
            assert name in wrong.text
        status, param, message = error_of(await it.ask(temperature=3, top_p=-1))
        assert (status, param) == (400, "temperature") and "top_p is -1" in message
        refused = it.seen.calls[-1]
        assert (refused.status, refused.reply, refused.messages) == (400, None, ())
        assert "temperature" in (refused.error or "")

    served(body, loaded)


def test_equal_calls_of_programs_that_share_a_key_are_calls_of_their_own(loaded):
    async def body(it):
        answers = await asyncio.gather(*(it.ask(max_tokens=20) for _ in range(6)))
        assert len({answer.json()["id"] for answer in answers}) == 6
        assert len({call.call_id for call in it.seen.calls}) == 6
        again = [
            await it.post(
                "chat/completions", {"messages": QUESTION, "max_tokens": 2}, idempotency_key="k"
            )
            for _ in range(2)
        ]
        assert again[0].json() == again[1].json()

    served(body, loaded)


def test_a_model_that_is_not_served_is_named_with_those_that_are(loaded):
    async def body(it):
        status, param, message = error_of(await it.ask(model="gpt-4o"))
        assert (status, param) == (404, "model") and "this server has tiny" in message
        anthropic = await it.post(
            "messages", {"messages": QUESTION, "model": "claude", "max_tokens": 5}
        )
        assert anthropic.json()["error"]["type"] == "not_found_error"
        assert [one["id"] for one in (await it.http.get(f"{it.address}/v1/models")).json()["data"]]
        assert (await it.http.get(f"{it.address}/v1/models/tiny")).json()["id"] == "tiny"
        assert (await it.http.get(f"{it.address}/v1/models/other")).status_code == 404
        assert [(c.status, c.model, c.answered_by) for c in it.seen.calls] == [
            (404, "gpt-4o", None),
            (404, "claude", None),
        ]

    served(body, loaded)


def test_keys_let_in_and_are_told_to_nobody(loaded, caplog):
    async def body(it):
        assert (await it.ask()).status_code == 401
        path, asked = "chat/completions", {"messages": QUESTION, "max_tokens": 2}
        assert (await it.post(path, asked, authorization="Bearer second")).status_code == 401
        assert (await it.http.get(f"{it.address}/v1/models")).status_code == 401
        answers = [
            await it.post(path, asked, authorization="Bearer the-first"),
            await it.post(path, asked, x_api_key="the-second"),
        ]
        assert [answer.status_code for answer in answers] == [200, 200]
        assert [call.status for call in it.seen.calls] == [401, 401, 401, 200, 200]
        assert len({call.key for call in it.seen.calls[3:]}) == 2
        assert "the-first" not in f"{it.seen.calls} {caplog.text} {it.said}"
        assert (await it.http.get(f"{it.address}/readyz")).status_code == 200

    served(body, loaded, keys=("the-first", "the-second"))


def test_observers_are_told_what_was_asked_and_sampled(loaded):
    async def body(it):
        answer = await it.ask(n=2, user="someone", metadata={"session_id": "s1"}, seed=1)
        first, second = it.seen.calls
        assert first.call_id == answer.json()["id"].removeprefix("chatcmpl-")
        assert second.call_id == f"{first.call_id}-1"
        assert (first.user, first.session, first.is_stream) == ("someone", "s1", False)
        assert first.messages[-1]["content"] == QUESTION[0]["content"]
        texts = [choice["message"]["content"] for choice in answer.json()["choices"]]
        assert [call.reply["content"] for call in it.seen.calls] == texts
        assert len(first.prompt_ids) == answer.json()["usage"]["prompt_tokens"]
        assert len(first.reply_ids) == len(first.logprobs) > 0
        assert first.answered_by == "tiny" and first.weights.startswith("tiny@")
        await it.ask(headers={"x-astuner-record": "no", "x-session-id": "s2"})
        assert (it.seen.calls[2].is_recordable, it.seen.calls[2].session) == (False, "s2")

    served(body, loaded)


def test_a_client_that_goes_leaves_nothing_running(loaded):
    async def body(it):
        with held(loaded):
            asking = await begun(it)
            asking.cancel()
            while not it.seen.calls:
                await asyncio.sleep(0)
        (call,) = it.seen.calls
        assert (call.status, call.reply, call.error) == (499, None, None)
        assert call.messages == QUESTION
        await it.ask()
        assert (await it.http.get(f"{it.address}/healthz")).json()["waiting_calls"] == 0

    served(body, loaded)


def test_a_conversation_that_is_too_long_is_refused_as_clients_know_it(loaded):
    async def body(it):
        long = await it.ask(messages=[{"role": "user", "content": "plus " * 400}])
        assert long.json()["error"]["code"] == "context_length_exceeded"
        assert f"{CONTEXT} tokens" in long.text
        full = await it.ask(max_tokens=100_000, temperature=1)
        assert full.json()["usage"]["total_tokens"] <= CONTEXT

    served(body, loaded)


def test_the_next_turn_of_a_conversation_reads_what_is_new_only(loaded):
    async def body(it):
        (engine,) = loaded.engines
        before = engine.prompt_tokens_read
        history = [{"role": "user", "content": "What is 1 plus 1? " * 4}]
        first = await it.ask(messages=history, temperature=0)
        read_first = engine.prompt_tokens_read - before
        history += [
            {"role": "assistant", "content": text_of(first)},
            {"role": "user", "content": "And 2?"},
        ]
        second = await it.ask(messages=history, temperature=0)
        num_prompt = second.json()["usage"]["prompt_tokens"]
        read_second = engine.prompt_tokens_read - before - read_first
        assert read_first == first.json()["usage"]["prompt_tokens"] > 40
        assert read_second <= num_prompt - read_first + 16, "but for part of a page"

    served(body, loaded)


def test_nothing_of_a_call_is_kept(loaded):
    kinds = ("Recorder", "TokenChat", "Flight", "ClientCall", "ChoiceCall", "Call", "Draft", "Ask")

    def counted() -> Counter[str]:
        gc.collect()
        names = (type(one).__name__ for one in gc.get_objects())
        return Counter(name for name in names if name in kinds)

    async def body(it):
        async def some(number: int, **fields: object) -> None:
            await asyncio.gather(*(it.ask(max_tokens=1, **fields) for _ in range(number)))

        await some(8)
        before = counted()  # what other tests keep among it
        for index in range(4):
            await some(10)
            await some(5, temperature=9)
            await some(5, chat_template_kwargs={"a": index})
            await some(5, stream=True)
        num_calls = len(it.seen.calls)
        it.seen.calls.clear()
        assert num_calls == 108
        for _ in range(20):  # the thread of the engine may still be at the end of its last pass
            if (most := max((counted() - before).values(), default=0)) <= 1:
                break
            await asyncio.sleep(0.05)
        assert most <= 1, "the thread of the engine has its last one"

    served(body, loaded)


def test_the_end_lets_calls_finish_and_takes_no_others(loaded):
    async def body(it):
        with held(loaded):
            asking = await begun(it)
            await signalled(it, 15)
            assert (await it.http.get(f"{it.address}/readyz")).json()["status"] == "ending"
            status, _, message = error_of(await it.ask())
            assert status == 503 and "ending" in message
        assert text_of(await asking)
        assert await it.ended == 15
        assert [call.status for call in it.seen.calls] == [503, 200]

    served(body, loaded)


@pytest.mark.parametrize("ends_by", ["a second signal", "time"])
def test_calls_that_do_not_end_are_cut_off_with_a_reason(loaded, ends_by):
    async def body(it):
        with held(loaded):
            asking = await begun(it)
            await signalled(it, 15)
            if ends_by == "a second signal":
                it.signals[1].set_result(15)
            assert (await asking).json()["error"]["code"] == "server_ending"
        assert await it.ended == 15

    served(body, loaded, drain_seconds=20 if ends_by == "a second signal" else 0)


def test_an_engine_that_failed_serves_on(loaded):
    async def body(it):
        head = loaded.engines[0]._model.lm_head.weight
        whole = head.detach().clone()
        head.fill_(float("nan"))
        failed = await it.ask()
        head.copy_(whole)
        assert (failed.status_code, failed.json()["error"]["code"]) == (500, "engine_failed")
        assert "not finite" in (it.seen.calls[0].error or "")
        assert text_of(await it.ask())

    served(body, loaded)


def test_the_books_are_kept_and_feedback_finds_its_answer(loaded, tmp_path):
    recording = RecordingOptions(folder=tmp_path, is_masked=False, max_mb=None, version="0")

    async def body(it):
        answer = (await it.ask(messages=[{"role": "user", "content": "Remember me"}])).json()
        opinion = await it.post("feedback", {"id": answer["id"], "score": 1})
        assert opinion.status_code == 200, opinion.text
        metrics = (await it.http.get(f"{it.address}/metrics")).text
        assert 'requests_total{model="tiny",path="/v1/chat/completions",status="200"} 1' in metrics
        assert 'running_sequences{model="tiny"} 0' in metrics

    served(body, loaded, recording=recording)
    written = "".join(path.read_text() for path in tmp_path.rglob("*") if path.is_file())
    assert "Remember me" in written


def test_the_date_in_a_prompt_goes_on(loaded):
    days = [datetime(2026, 1, 31, 9, tzinfo=UTC), datetime(2026, 2, 1, 9, tzinfo=UTC)]
    tokenizer = copy.deepcopy(loaded.models[0].template.today()._tokenizer)
    tokenizer.chat_template = "{{ strftime_now('%d %b') }}" + tokenizer.chat_template
    template = DailyTemplate(ChatTemplate(tokenizer, now=days[0]), clock=lambda: days[0])
    first = template.today()
    assert template.today() is first
    days.pop(0)
    assert template.today().prompt_text([{"role": "user", "content": "a"}], ()).startswith("01 Feb")


async def begun(it: Talk) -> "asyncio.Task[httpx.Response]":
    """A call that the engine has, and does not answer while it is held."""
    asking = asyncio.create_task(it.ask(temperature=0))
    while it.server.num_under_way() == 0:
        await asyncio.sleep(0)
    return asking


async def signalled(it: Talk, number: int) -> None:
    """The first signal, which is noticed."""
    it.signals[0].set_result(number)
    while len(it.signals) < 2:
        await asyncio.sleep(0)


def held(loaded: LoadedModels) -> threading.Condition:
    """Inside, the engine begins no pass: it waits for the lock that the event loop has."""
    return loaded.engines[0].attendance.changed
