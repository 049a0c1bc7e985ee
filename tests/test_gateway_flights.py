"""A call that is sent again, or left: one sample for each call, and none for nobody."""

import asyncio
import itertools
import json

import httpx
import openai
import pytest

from astuner.errors import EngineError
from astuner.gateway.flights import Flights, Ticket
from astuner.gateway.wires.wire_format import Ask
from astuner.inference.request import ChatRequest
from astuner.serving.refusal import Refusal
from tests.fakes import ScriptedEngine
from tests.gateways import QUESTION, serving

SLOW = 0.25


def counting(delay_seconds=0.0, **options):
    """An engine whose answers are numbered."""
    numbers = iter(range(1000))
    return ScriptedEngine(
        lambda p: f"answer {next(numbers)}", delay_seconds=delay_seconds, **options
    )


class Hiccuping(ScriptedEngine):
    """Fails in one call, the first being 1."""

    def __init__(self, script, *, call):
        super().__init__(script)
        self._calls_until = call

    async def generate(self, *args, **options):
        self._calls_until -= 1
        if self._calls_until == 0:
            raise EngineError("hiccup")
        return await super().generate(*args, **options)


def served(body, engine, **options):
    async def run():
        async with serving(engine, **options) as it:
            return await body(it)

    return asyncio.run(run())


async def until(condition, *, seconds=60.0):
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.002)


def text_of(response):
    return response.json()["choices"][0]["message"]["content"]


def attempt(number):
    """As the SDKs of OpenAI and Anthropic count their retries."""
    return {"x-stainless-retry-count": str(number)}


def test_the_same_body_while_the_first_is_in_flight_is_the_same_call():
    async def body(it):
        answers = await asyncio.gather(*(it.ask() for _ in range(5)))
        assert {text_of(answer) for answer in answers} == {"answer 0"}
        assert len({answer.json()["id"] for answer in answers}) == 1
        assert len(it.calls) == 1

    served(body, counting(SLOW))


def test_the_same_body_after_its_answer_was_read_is_a_new_call():
    async def body(it):
        assert [text_of(await it.ask()) for _ in range(2)] == ["answer 0", "answer 1"]
        assert len(it.calls) == 2

    served(body, counting())


def test_another_body_agent_or_path_is_another_call():
    async def body(it):
        await asyncio.gather(
            it.ask(),
            it.ask(user="other"),
            it.ask(headers={"authorization": f"Bearer {it.address('other').api_key}"}),
        )
        assert len(it.calls) == 3

    served(body, counting(SLOW))


def test_first_attempts_of_an_sdk_are_calls_of_their_own_and_its_retries_are_not():
    async def body(it):
        votes = await asyncio.gather(*(it.ask(headers=attempt(0)) for _ in range(3)))
        assert len({text_of(vote) for vote in votes}) == 3 == len(it.calls)
        first = asyncio.create_task(it.ask(headers=attempt(0)))
        await until(lambda: it.engine.running == 1)
        assert text_of(await it.ask(headers=attempt(1))) == text_of(await first)
        assert len(it.calls) == 4

    served(body, counting(SLOW))


def test_an_idempotency_key_names_a_call_for_the_whole_episode():
    async def body(it):
        named = {"idempotency-key": "k1"}
        first = await it.ask(headers=named)
        again = await it.ask(headers=named)
        assert first.json() == again.json() and len(it.calls) == 1
        other = await it.ask(headers=named, user="other body")
        assert other.status_code == 422
        assert other.json()["error"]["code"] == "idempotency_key_reused"
        for number in range(2, 42):
            await it.ask(headers={"idempotency-key": f"k{number}"})
        assert (await it.ask(headers=named)).json() == first.json() and len(it.calls) == 41

    served(body, counting())


def test_a_client_that_gives_up_cancels_its_generation():
    async def body(it):
        asking = asyncio.create_task(it.ask())
        await until(lambda: it.engine.running == 1)
        asking.cancel()
        await until(lambda: it.engine.cancelled == 1)
        assert it.calls == [] and it.engine.running == 0

    served(body, counting(60.0))


def test_a_stream_that_is_left_cancels_its_generation():
    async def body(it):
        address = it.address()
        async with it.http.stream(
            "POST",
            f"{address.base_url}/chat/completions",
            json={"messages": QUESTION, "stream": True},
            headers={"authorization": f"Bearer {address.api_key}"},
        ) as response:
            async for _ in response.aiter_raw():
                break
        await until(lambda: it.engine.cancelled == 1)
        assert it.calls == []

    served(body, counting(piece_seconds=0.05))


def test_a_generation_goes_on_for_another_who_waits_for_it():
    async def body(it):
        one = asyncio.create_task(it.ask())
        other = asyncio.create_task(it.ask())
        await until(lambda: it.engine.running == 1)
        await asyncio.sleep(0.05)
        one.cancel()
        assert text_of(await other) == "answer 0"
        assert it.engine.cancelled == 0 and len(it.calls) == 1

    served(body, counting(SLOW))


def test_an_sdk_that_retries_after_its_timeout_gets_one_recorded_call():
    async def body(it):
        address = it.address()
        async with openai.AsyncOpenAI(
            base_url=address.base_url, api_key=address.api_key, timeout=2.0, max_retries=2
        ) as client:
            reply = await client.chat.completions.create(model="m", messages=QUESTION)
        assert reply.choices[0].message.content == it.calls[0].reply["content"]
        assert len(it.calls) == 1 and len(it.engine.indices) == 2

    class SlowOnce(ScriptedEngine):
        async def generate(self, *args, **options):
            self._delay_seconds = 0.0 if self.indices else 60.0
            return await super().generate(*args, **options)

    served(body, SlowOnce(lambda prompt: "five"))


def test_an_answer_that_nobody_took_is_kept_for_whoever_asks_the_same():
    async def run():
        flights, number = Flights(), itertools.count()

        async def fly(on_delta):
            return next(number)

        def board(*, attempt=None, key=None):
            ticket = Ticket(body=b"same", idempotency_key=key, attempt=attempt)
            return flights.board(ticket, [fly])

        first = board(attempt=0)
        await until(lambda: first.has_landed)
        flights.leave(first, has_read=False)
        again = board(attempt=0)
        assert again is first and again.replies() == [0]
        flights.leave(again, has_read=True)
        for number in (1, 0, None):
            assert board(attempt=number) is not first, "its answer was taken"

    asyncio.run(run())


def test_a_reader_may_leave_after_the_door_was_closed():
    async def run():
        flights = Flights()
        ticket = Ticket(body=b"a", idempotency_key=None, attempt=None)
        flight = flights.board(ticket, [lambda on_delta: asyncio.sleep(30)])
        flights.close()
        flights.leave(flight, has_read=False)
        await until(lambda: flight.has_landed)
        assert flight.has_failed

    asyncio.run(run())


def test_kept_answers_are_bounded_and_a_closed_door_takes_nobody():
    async def run():
        flights = Flights()

        async def fly(on_delta):
            return None

        for index in range(100):
            ticket = Ticket(body=str(index).encode(), idempotency_key=None, attempt=None)
            flight = flights.board(ticket, [fly])
            await until(lambda flight=flight: flight.has_landed)
            flights.leave(flight, has_read=False)
        assert len(flights._flights) <= 33
        flights.close()
        with pytest.raises(Refusal) as caught:
            flights.board(ticket, [fly])
        assert caught.value.status == 410

    asyncio.run(run())


def test_an_answer_that_nobody_took_is_kept_longer_than_others():
    async def run():
        flights = Flights()

        async def fly(on_delta):
            return None

        def board(name):
            return flights.board(Ticket(body=name, idempotency_key=None, attempt=None), [fly])

        missed = board(b"missed")
        await until(lambda: missed.has_landed)
        flights.leave(missed, has_read=False)
        for index in range(100):
            flight = board(str(index).encode())
            await until(lambda flight=flight: flight.has_landed)
            flights.leave(flight, has_read=True)
        assert board(b"missed") is missed

    asyncio.run(run())


def test_the_retry_of_a_call_that_failed_does_not_get_the_answer_of_an_equal_one():
    async def body(it):
        first = await it.ask(headers=attempt(0))
        assert (await it.ask(headers=attempt(0))).status_code == 500
        retried = await it.ask(headers=attempt(1))
        assert text_of(retried) != text_of(first) and len(it.calls) == 2

    numbers = itertools.count()
    served(body, Hiccuping(lambda p: f"answer {next(numbers)}", call=2))


def test_the_retry_of_a_vote_that_failed_is_not_an_equal_vote_under_way():
    async def body(it):
        votes = [asyncio.create_task(it.ask(headers=attempt(0))) for _ in range(2)]
        await until(lambda: any(vote.done() for vote in votes))
        (failed,) = [vote for vote in votes if vote.done()]
        assert (await failed).status_code == 500
        again = await it.ask(headers=attempt(1))
        (other,) = [vote for vote in votes if vote is not failed]
        assert text_of(again) != text_of(await other) and len(it.calls) == 2

    numbers = itertools.count()
    engine = Hiccuping(lambda p: f"answer {next(numbers)}", call=1)
    engine._delay_seconds = SLOW
    served(body, engine)


def test_of_a_call_that_fails_in_part_nothing_is_trained():
    async def body(it):
        assert (await it.ask(n=3)).status_code == 500
        assert len(it.calls) == 2, "the record keeps what was sampled"
        assert not any(call.is_trained or call.is_taken for call in it.calls)
        assert (await it.ask(n=3)).status_code == 200
        assert [call.is_trained for call in it.calls] == [False] * 2 + [True] * 3

    served(body, Hiccuping(lambda prompt: "five", call=3))


def test_of_a_call_that_is_left_before_its_end_nothing_is_trained():
    class Lagging(ScriptedEngine):
        """Its first answer comes at once."""

        async def generate(self, *args, **options):
            self._delay_seconds = 5.0 if self.indices else 0.0
            return await super().generate(*args, **options)

    async def body(it):
        for fields in ({"n": 2}, {"response_format": {"type": "json_object"}}):
            it.calls.clear()
            it.engine.indices.clear()
            asking = asyncio.create_task(it.ask(**fields))
            await until(lambda: len(it.engine.indices) == 2 and len(it.calls) == 1)
            asking.cancel()
            await until(lambda: it.engine.running == 0)
            assert [call.is_trained for call in it.calls] == [False]

    served(body, Lagging(lambda prompt: "no JSON"))


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_is_trained_once_it_was_taken(stream):
    async def body(it):
        agent = it.gateway._keys.owner(it.address().api_key)
        ticket = Ticket(body=b"same", idempotency_key=None, attempt=None)
        requests = (ChatRequest(messages=QUESTION),)
        ask = Ask(requests=requests, model="any", is_stream=stream)
        for has_read in (False, True):
            flight = agent.board(ask, ticket, path="/chat").flight
            await until(lambda flight=flight: flight.has_landed)
            agent.leave(flight, has_read=has_read)
            assert [call.is_trained for call in it.calls] == [has_read], "one call, kept for both"
        await it.ask(stream=stream)
        assert it.calls[1].is_trained

    served(body, counting())


def test_a_mad_answer_is_trained_also_where_nobody_got_it():
    async def body(it):
        assert (await it.ask(n=2)).status_code == 410
        assert [call.is_trained for call in it.calls] == [True]

    served(body, counting(), find_madness=lambda reply: "nonsense: mad")


def test_a_call_that_failed_is_tried_anew():
    async def body(it):
        named = {"idempotency-key": "k"}
        assert (await it.ask(headers=named)).status_code == 500
        assert (await it.ask(headers=named)).status_code == 200
        client = it.tuner.as_raw_openai_sdk_client()
        assert (await client.models.list()).data

    served(body, Hiccuping(lambda prompt: "five", call=1))


def test_a_late_reader_of_a_stream_gets_it_from_its_beginning():
    async def body(it):
        first = asyncio.create_task(it.ask(stream=True))
        await until(lambda: it.engine.running == 1)
        await asyncio.sleep(0.1)
        second = await it.ask(stream=True)
        assert said(await first) == said(second) == "answer 0" and len(it.calls) == 1

    served(body, counting(piece_seconds=0.02))


def said(response):
    """Joined; what came at once may be in one piece."""
    events = [line.removeprefix("data: ") for line in response.text.split("\n\n")[:-2]]
    deltas = [json.loads(event)["choices"][0]["delta"] for event in events]
    return "".join(delta.get("content", "") for delta in deltas)


def test_hundreds_of_connections_at_a_time_lose_nothing():
    async def body(it):
        limits = httpx.Limits(max_connections=1000)
        async with httpx.AsyncClient(limits=limits, timeout=60) as http:
            address = it.address()

            async def ask(number):
                return await http.post(
                    f"{address.base_url}/chat/completions",
                    json={"messages": QUESTION, "user": str(number)},
                    headers={"authorization": f"Bearer {address.api_key}"},
                )

            answers = await asyncio.gather(*(ask(number) for number in range(200)))
        assert {answer.status_code for answer in answers} == {200}
        assert len({text_of(answer) for answer in answers}) == 200 == len(it.calls)

    served(body, counting(0.5), seconds=60)
