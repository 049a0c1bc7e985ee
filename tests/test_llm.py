"""Asking a model that is not tuned: answers, their form, tries, deadlines, budgets and counts."""

import asyncio
import logging
import pickle
import socket
import subprocess
import sys
import threading
from typing import Literal

import pytest
from pydantic import BaseModel

from astuner import errors
from astuner.errors import (
    AstunerError,
    ConfigError,
    EpisodeError,
    JudgeError,
    LlmAnswerError,
    LlmBudgetError,
    LlmError,
    boundary,
)
from astuner.llm import LlmUsage, usage_of_process
from astuner.llm.answer_schema import find_problem
from astuner.llm.budget import Budget
from astuner.llm.limiter import CallLimiter
from tests.llm_server import KEY, Naps, Reply, answers_as_gpt5, make_model, refuses, says, serving

pytest.importorskip("openai")


class Verdict(BaseModel):
    grade: Literal["right", "wrong"]
    reason: str = ""


RIGHT = '{"grade": "right"}'


def ask(script, question="Is it right?", *, options=None, **arguments):
    """The answer to one question, and the server that gave it."""

    async def run():
        async with make_model(server.base_url, **(options or {})) as model:
            return await model.ask(question, **arguments), model.usage

    with serving(script) as server:
        answer, usage = asyncio.run(run())
    return answer, usage, server


def fails(script, error, question="Is it right?", *, options=None, **arguments):
    """The message of the error that one question ends with, the usage and the server."""

    async def run():
        async with make_model(server.base_url, **(options or {})) as model:
            with pytest.raises(error) as caught:
                await model.ask(question, **arguments)
            return str(caught.value), model.usage

    with serving(script) as server:
        message, usage = asyncio.run(run())
    assert KEY not in message
    return message, usage, server


# Answers


def test_a_question_is_answered_with_text():
    answer, usage, server = ask([says("Yes.")])
    assert answer == "Yes."
    assert server.requests == [
        {
            "model": "m",
            "messages": [{"role": "user", "content": "Is it right?"}],
            "temperature": 0.0,
            "max_tokens": 100,
        }
    ]
    assert server.keys == [KEY]
    assert usage == LlmUsage(num_calls=1, num_input_tokens=7, num_output_tokens=3)


def test_messages_and_sampling_are_sent_as_they_are_given():
    messages = [{"role": "system", "content": "You judge."}, {"role": "user", "content": "5?"}]
    _, _, server = ask([says("x")], messages, temperature=0.7, max_new_tokens=9, seed=3)
    assert server.messages(0) == messages
    asked = server.requests[0]
    assert (asked["temperature"], asked["max_tokens"], asked["seed"]) == (0.7, 9, 3)


def test_a_temperature_that_is_left_to_the_server_is_not_sent():
    _, _, server = ask([says("x")], temperature=None)
    assert "temperature" not in server.requests[0]


def test_a_text_that_its_limit_cut_off_is_an_answer():
    assert ask([says("It is ri", finish_reason="length")])[0] == "It is ri"


def test_a_server_that_does_not_count_tokens_adds_none():
    _, usage, _ = ask([says("x", tokens=None)])
    assert usage == LlmUsage(num_calls=1)


def test_several_keys_are_used_in_turn():
    async def run(server):
        async with make_model(server.base_url, keys=("k1", "k2")) as model:
            for number in range(3):
                await model.ask(f"{number}?")

    with serving(lambda body: says("x")) as server:
        asyncio.run(run(server))
    assert server.keys == ["k1", "k2", "k1"]


def test_a_server_that_wants_no_key_is_asked_without_one():
    _, _, server = ask([says("x")], options={"keys": ()})
    assert server.keys == ["not-needed"]


@pytest.mark.parametrize("messages", [[], [{"role": "user", "content": {1, 2}}]])
def test_what_is_no_conversation_is_not_sent(messages):
    message, usage, _ = fails([], LlmError, messages)
    assert "question" in message and usage.num_calls == 0


# Form of the answer


@pytest.mark.parametrize(
    "text",
    [
        RIGHT,
        f"  {RIGHT}\n",
        f"```json\n{RIGHT}\n```",
        f"Here it is:\n```\n{RIGHT}\n```\nThat is all.",
        f'<think>Is it {{"grade": "wrong"}}?</think>\n\n{RIGHT}',
        '{"grade": "right", "reason": "```python\\n1\\n```"}',
        '{"grade": "right", "reason": "behind </think> it says so"}',
    ],
)
def test_an_answer_with_a_schema_is_an_object(text):
    answer, usage, _ = ask([says(text)], schema=Verdict)
    assert isinstance(answer, Verdict) and answer.grade == "right"
    assert usage.num_calls == 1


def test_a_fence_that_never_ends_is_read_once() -> None:
    assert find_problem("```" + "\n" * 200_000, Verdict)


def test_the_schema_is_told_behind_the_question():
    messages = [{"role": "system", "content": "You judge."}, {"role": "user", "content": "5?"}]
    _, _, server = ask([says(RIGHT)], messages, schema=Verdict)
    system, user = server.messages(0)
    assert system == messages[0]
    assert user["content"].startswith("5?\n\n") and '"enum": ["right", "wrong"]' in user["content"]
    assert "response_format" not in server.requests[0]


def test_the_schema_is_told_in_parts_where_the_question_has_parts():
    parts = [{"type": "text", "text": "5?"}]
    _, _, server = ask([says(RIGHT)], [{"role": "user", "content": parts}], schema=Verdict)
    first, second = server.messages(0)[0]["content"]
    assert first == parts[0] and "schema" in second["text"]


def test_the_schema_is_a_message_of_its_own_behind_an_answer():
    messages = [{"role": "user", "content": "5?"}, {"role": "assistant", "content": "Hm."}]
    _, _, server = ask([says(RIGHT)], messages, schema=Verdict)
    assert [message["role"] for message in server.messages(0)] == ["user", "assistant", "user"]


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        ("It is right.", "Invalid JSON"),
        ('{"grade": "fine"}', "grade: Input should be 'right' or 'wrong'"),
        ('{"reason": "so"}', "grade: Field required"),
        ("", "it is empty"),
    ],
)
def test_an_answer_that_does_not_fit_is_asked_for_once_more_in_the_same_conversation(bad, problem):
    answer, usage, server = ask([says(bad), says(RIGHT)], schema=Verdict)
    assert answer.grade == "right"
    first, second = server.messages(0), server.messages(1)
    assert second[: len(first)] == first
    said, why = second[len(first) :]
    assert said == {"role": "assistant", "content": bad or "(nothing)"}
    assert why["role"] == "user" and problem in why["content"]
    assert usage == LlmUsage(num_calls=2, num_input_tokens=14, num_output_tokens=6)


def test_an_answer_that_does_not_fit_twice_is_an_error_of_its_own_kind():
    bad = "It is right, since " + "x" * 1000
    message, usage, server = fails([says(bad), says(bad)], LlmAnswerError, schema=Verdict)
    assert "no Verdict, though asked twice: Invalid JSON" in message
    assert "It is right, since" in message and len(message) < 600
    assert len(server.requests) == 2 and usage.num_errors == 1


def test_an_answer_that_its_limit_cut_off_says_so():
    cut = says('{"grade": "ri', finish_reason="length")
    message, _, _ = fails([cut, cut], LlmAnswerError, schema=Verdict)
    assert "it was cut off at its limit" in message and "let answers be longer" in message


def test_no_text_at_all_is_no_answer():
    message, _, server = fails([says(None), says(None)], LlmAnswerError)
    assert "no answer, though asked twice: it is empty" in message and len(server.requests) == 2


# Errors that pass


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 529])
def test_a_passing_error_is_tried_again(status):
    answer, usage, server = ask([refuses(status), refuses(status), says("Yes.")])
    assert answer == "Yes." and len(server.requests) == 3
    assert (usage.num_calls, usage.num_retries, usage.num_errors) == (3, 2, 0)


def test_the_server_is_left_alone_for_as_long_as_it_says():
    naps = Naps()
    ask([refuses(429, retry_after="7"), says("Yes.")], options={"naps": naps})
    assert len(naps.seconds) == 1 and 7 <= naps.seconds[0] < 9


def test_waiting_beyond_the_deadline_is_not_begun():
    naps = Naps()
    message, usage, _ = fails(
        [refuses(429, "later", retry_after="3600")], LlmError, options={"naps": naps}
    )
    assert "no answer in 1 try (the last failure: 429: " in message and "later" in message
    assert "astuner.llm.timeout_seconds" in message
    assert naps.seconds == [] and usage.num_errors == 1


def test_tries_have_a_bound():
    message, usage, server = fails([refuses(500, "broken")] * 9, LlmError)
    assert "no answer in 4 tries (the last failure: 500: " in message and "broken" in message
    assert len(server.requests) == 4 and usage.num_retries == 3 and usage.num_errors == 1


def test_a_retry_is_logged_without_what_was_asked(caplog):
    caplog.set_level(logging.DEBUG, logger="astuner")
    ask([refuses(500), says("Yes.")], "a secret question")
    (line,) = [record.getMessage() for record in caplog.records if record.name[:7] == "astuner"]
    assert line.startswith("llm retry reason=500 wait_seconds=")


def test_a_server_that_is_not_there_is_tried_again_and_named():
    async def run():
        async with make_model(f"http://127.0.0.1:{port}/v1") as model:
            with pytest.raises(LlmError) as caught:
                await model.ask("Is it right?")
            return str(caught.value)

    with socket.socket() as taken:  # bound but not listening: connections are refused
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        message = asyncio.run(run())
    assert f"model 'm' at http://127.0.0.1:{port}/v1: no answer in 4 tries" in message
    assert "ConnectError" in message and "is the server up" in message


def test_a_connection_that_breaks_is_tried_again():
    torn = Reply(body=b"{", headers={"connection": "close", "transfer-encoding": "chunked"})
    answer, _, server = ask([torn, says("Yes.")])
    assert answer == "Yes." and len(server.requests) == 2


def test_fewer_calls_run_at_once_after_a_refusal_for_load_and_this_is_said_once(caplog):
    async def run(server):
        async with make_model(server.base_url, limiter=CallLimiter(8)) as model:
            await asyncio.gather(*(model.ask(f"{number}?") for number in range(4)))

    refused = [refuses(429), refuses(429), refuses(429), refuses(429)]
    with serving([*refused, refuses(429), *[says("x")] * 4]) as server:
        asyncio.run(run(server))
    (line,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert line == "llm calls reduced max_parallel=8 now=4: the server refuses more at once"


def test_no_more_calls_run_at_once_than_allowed():
    async def run(server):
        async with make_model(server.base_url, limiter=CallLimiter(3)) as model:
            return await asyncio.gather(*(model.ask(f"{number}?") for number in range(12)))

    with serving(lambda body: says(body["messages"][0]["content"])) as server:
        assert asyncio.run(run(server)) == [f"{number}?" for number in range(12)]
    assert server.most_at_once <= 3


# Errors that do not pass


@pytest.mark.parametrize("status", [400, 403, 404, 413, 422])
def test_other_refusals_are_not_tried_again(status):
    message, usage, server = fails([refuses(status, "too long " + "x" * 1000)], LlmError)
    assert f"refused with {status}" in message and "too long" in message and len(message) < 400
    assert len(server.requests) == 1 and usage.num_errors == 1


def test_a_model_that_is_not_there_says_what_to_check():
    message, _, _ = fails([refuses(404, "The model `m` does not exist")], LlmError)
    assert "`m` does not exist" in message and "check astuner.llm.base_url" in message


def test_an_account_without_money_is_not_tried_again():
    message, _, server = fails([refuses(429, code="insufficient_quota")], LlmError)
    assert "insufficient_quota" in message and len(server.requests) == 1


def test_a_refused_key_names_its_variable_and_not_itself():
    message, _, server = fails([refuses(401, f"Incorrect API key: {KEY}")], ConfigError)
    assert "refused the key in LLM_KEY (401)" in message and "astuner.llm.api_key_env" in message
    assert len(server.requests) == 1


def test_a_key_that_is_missing_is_named():
    message, _, _ = fails([refuses(401)], ConfigError, options={"keys": ()})
    assert "no key, as LLM_KEY is empty" in message


def test_a_key_that_the_server_repeats_is_not_quoted():
    message, _, _ = fails([refuses(400, f"key {KEY} is fine, the rest is not")], LlmError)
    assert "key *** is fine" in message


@pytest.mark.parametrize(
    "body", [b"<html>Welcome</html>", b"", b"null", b"[]", b'{"choices": []}', b'{"choices": [1]}']
)
def test_what_is_no_completion_is_named(body):
    message, _, server = fails([Reply(body=body)], LlmError)
    assert "is no chat completion" in message and "does the address end in /v1?" in message
    assert len(server.requests) == 1


# Deadline and cancellation


def test_an_answer_that_comes_too_late_is_an_error():
    never = threading.Event()
    options = {"timeout_seconds": 0.2}
    try:
        message, usage, _ = fails([says("x", held_by=never)], LlmError, options=options)
    finally:
        never.set()
    assert "timeout_seconds" in message and "1 try" in message and usage.num_errors == 1


def test_waiting_for_other_calls_counts_against_the_deadline():
    async def run(server):
        limiter = CallLimiter(1)
        model = make_model(server.base_url, limiter=limiter, timeout_seconds=0.05)
        async with model, limiter.slot():
            with pytest.raises(LlmError, match=r"no answer in 0\.05 s .* and 0 tries"):
                await model.ask("1?")

    with serving([says("x")]) as server:
        asyncio.run(run(server))
    assert server.requests == []


def test_a_caller_that_is_cancelled_gives_its_slot_to_the_next():
    held = threading.Event()

    async def run(server):
        async with make_model(server.base_url, limiter=CallLimiter(1)) as model:
            first = asyncio.create_task(model.ask("first?"))
            while not server.requests:
                await asyncio.sleep(0.01)
            second = asyncio.create_task(model.ask("second?"))
            first.cancel()
            answer = await second
            assert first.cancelled()
            return answer

    def script(body):
        is_first = body["messages"][0]["content"] == "first?"
        return says("x", held_by=held if is_first else None)

    with serving(script) as server:
        try:
            assert asyncio.run(run(server)) == "x"
        finally:
            held.set()


# Budget


def test_no_more_calls_are_made_than_the_budget_has_also_when_asked_at_once():
    async def run(server):
        async with make_model(server.base_url, budget=Budget(max_calls=3)) as model:
            results = await asyncio.gather(
                *(model.ask(f"{number}?") for number in range(8)), return_exceptions=True
            )
            return results, model.usage

    with serving(lambda body: says("x")) as server:
        results, usage = asyncio.run(run(server))
    assert len(server.requests) == usage.num_calls == 3
    refused = [result for result in results if isinstance(result, LlmBudgetError)]
    assert len(refused) == 5
    assert "astuner.llm.max_calls = 3 is used up: 3 calls" in str(refused[0])
    assert "raise the limit" in str(refused[0])


def test_further_tries_count_as_calls():
    script = [refuses(500), refuses(500), says("x")]
    message, _, server = fails(script, LlmBudgetError, options={"budget": Budget(max_calls=2)})
    assert "max_calls = 2" in message and len(server.requests) == 2


def test_after_so_many_tokens_nothing_is_asked():
    async def run(server):
        async with make_model(server.base_url, budget=Budget(max_tokens=15)) as model:
            await model.ask("1?")
            await model.ask("2?")
            with pytest.raises(LlmBudgetError) as caught:
                await model.ask("3?")
            return str(caught.value)

    with serving(lambda body: says("x", tokens=(7, 3))) as server:
        message = asyncio.run(run(server))
    assert len(server.requests) == 2
    assert "max_tokens = 15 is used up: 2 calls with 14 tokens in and 6 out" in message


def test_a_limit_on_tokens_needs_a_server_that_counts_them():
    options = {"budget": Budget(max_tokens=15)}
    message, _, _ = fails([says("x", tokens=None)], ConfigError, options=options)
    assert "max_tokens = 15 cannot be kept" in message and "max_calls" in message


# What an error means to an episode


def test_a_failed_question_of_a_judge_costs_its_episode_and_nothing_else():
    for kind in (LlmError, LlmAnswerError):
        with pytest.raises(EpisodeError) as caught, boundary(JudgeError, "the judge raised"):
            raise kind("no answer")
        assert type(caught.value) is kind


def test_what_no_further_question_could_mend_is_no_error_of_an_episode():
    for kind in (LlmBudgetError, ConfigError):
        assert issubclass(kind, AstunerError) and not issubclass(kind, EpisodeError)


def test_the_errors_can_be_pickled_and_stand_in_the_tree():
    for kind in (LlmError, LlmAnswerError, LlmBudgetError):
        assert str(pickle.loads(pickle.dumps(kind("x")))) == "x"
        assert kind.__name__ in (errors.__doc__ or "")


# Life of a model


def test_a_second_event_loop_is_refused_by_name():
    with serving(lambda body: says("x")) as server:
        model = make_model(server.base_url)

        async def once():
            return await model.ask("1?")

        async def run():
            await model.ask("1?")
            with pytest.raises(LlmError, match=r"asked from a second event loop.*async def"):
                await asyncio.to_thread(asyncio.run, once())
            await model.close()

        asyncio.run(run())


def test_the_usage_of_all_models_of_the_process_is_their_sum():
    before = usage_of_process()
    _, first, _ = ask([says("Yes.")])
    _, second, _ = ask([says("No.", tokens=(20, 1))])
    assert usage_of_process().since(before) == first.plus(
        num_calls=second.num_calls, num_input_tokens=20, num_output_tokens=1
    )


def test_a_closed_model_is_refused_by_name():
    async def run(server):
        model = make_model(server.base_url)
        await model.close()
        with pytest.raises(LlmError, match="asked after it was closed"):
            await model.ask("1?")

    with serving([]) as server:
        asyncio.run(run(server))


def test_a_usage_is_a_picture_of_its_moment():
    async def run(server):
        async with make_model(server.base_url) as model:
            before = model.usage
            await model.ask("1?")
            return before, model.usage

    with serving([says("x")]) as server:
        before, after = asyncio.run(run(server))
    assert (before.num_calls, after.num_calls, after.num_tokens) == (0, 1, 10)


def test_importing_the_client_loads_none_of_the_packages_that_it_asks_through():
    code = (
        "import sys, astuner.llm\n"
        "loaded = {'openai', 'agentscope', 'torch', 'httpx'} & set(sys.modules)\n"
        "sys.exit(str(loaded) if loaded else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], timeout=60, check=False)
    assert done.returncode == 0


def test_a_model_that_wants_another_limit_and_temperature_is_asked_by_those():
    answer, _, server = ask(answers_as_gpt5)
    assert answer == "5" and len(server.requests) == 3
    assert "temperature" not in server.requests[-1]
    assert server.requests[-1]["max_completion_tokens"] == 100
