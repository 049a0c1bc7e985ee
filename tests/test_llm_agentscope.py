"""Asking an AgentScope chat model object in a server's place."""

import asyncio
from random import Random

import pytest
from pydantic import BaseModel

from astuner.errors import ConfigError, LlmAnswerError, LlmBudgetError, LlmError
from astuner.llm import LanguageModel
from astuner.llm.agentscope_endpoint import AgentScopeEndpoint
from astuner.llm.budget import Budget
from astuner.llm.limiter import CallLimiter
from astuner.llm.patience import PatientEndpoint
from astuner.llm.retries import Backoff
from tests.llm_server import LONG_SECONDS, Naps, Reply, refuses, says, serving

pytest.importorskip("agentscope")

from agentscope.message import TextBlock, ThinkingBlock
from agentscope.model import ChatModelBase, ChatResponse, OpenAIChatModel
from agentscope.model._model_usage import ChatUsage


class Grade(BaseModel):
    points: int


def response(*texts, usage=(7, 3), thinking=None):
    blocks = [TextBlock(type="text", text=text) for text in texts]
    thought = [ThinkingBlock(type="thinking", thinking=thinking)] if thinking else []
    counted = ChatUsage(input_tokens=usage[0], output_tokens=usage[1], time=0.1) if usage else None
    return ChatResponse(content=[*thought, *blocks], usage=counted)


class ScriptedModel(ChatModelBase):
    """Answers in order of a script, whose errors it raises."""

    def __init__(self, *script):
        super().__init__("scripted", stream=False)
        self.script = list(script)
        self.asked = []

    async def __call__(self, messages, tools=None, **options):
        self.asked.append((messages, tools, options))
        answer = self.script.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return answer


def make(model, *, budget=None, naps=None) -> LanguageModel:
    endpoint = PatientEndpoint(
        AgentScopeEndpoint(model),
        limiter=CallLimiter(4),
        budget=budget or Budget(),
        backoff=Backoff(random=Random(1), max_tries=3),
        sleep=naps or Naps(),
    )
    return LanguageModel(endpoint, cache=None, timeout_seconds=LONG_SECONDS, max_new_tokens=None)


def ask(model, question="2 + 3?", *, options=None, **arguments):
    async def run():
        async with make(model, **(options or {})) as asked:
            return await asked.ask(question, **arguments), asked.usage

    return asyncio.run(run())


def fails(model, error, **arguments):
    with pytest.raises(error) as caught:
        ask(model, **arguments)
    return str(caught.value)


def test_a_model_object_is_asked_as_agents_ask_it():
    model = ScriptedModel(response("5"))
    answer, usage = ask(model)
    assert answer == "5"
    assert model.asked == [([{"role": "user", "content": "2 + 3?"}], None, {})]
    assert (usage.num_calls, usage.num_input_tokens, usage.num_output_tokens) == (1, 7, 3)


def test_the_text_blocks_are_the_answer():
    answer, _ = ask(ScriptedModel(response("fi", "ve", thinking="Hm.")))
    assert answer == "five"


def test_an_answer_is_checked_and_asked_for_once_more():
    model = ScriptedModel(response("five"), response('{"points": 5}'))
    answer, usage = ask(model, schema=Grade)
    assert answer == Grade(points=5) and usage.num_calls == 2
    assert [message["role"] for message in model.asked[1][0]] == ["user", "assistant", "user"]


def test_an_answer_without_text_is_none():
    model = ScriptedModel(response(thinking="Hm."), response(thinking="Hm."))
    assert "it is empty" in fails(model, LlmAnswerError)


def test_the_last_part_of_a_stream_is_the_answer():
    async def stream():
        yield response("fi")
        yield response("five")

    assert ask(ScriptedModel(stream()))[0] == "five"


def test_equal_questions_are_each_asked_since_their_sampling_is_not_known():
    async def run():
        async with make(model) as asked:
            return await asyncio.gather(asked.ask("2 + 3?"), asked.ask("2 + 3?"))

    model = ScriptedModel(response("5"), response("five"))
    assert asyncio.run(run()) == ["5", "five"]


def test_a_connection_that_fails_is_tried_again():
    model = ScriptedModel(ConnectionResetError("gone"), TimeoutError("late"), response("5"))
    answer, usage = ask(model)
    assert answer == "5" and usage.num_retries == 2


def test_other_errors_of_a_model_are_named_and_not_tried_again():
    model = ScriptedModel(KeyError("field"), response("5"))
    message = fails(model, LlmError)
    assert message == "AgentScope model 'scripted' raised: KeyError: 'field'"
    assert len(model.asked) == 1


def test_a_model_that_returns_something_else_is_named():
    message = fails(ScriptedModel("five"), LlmError)
    assert message == "AgentScope model 'scripted' returned str, not a ChatResponse"


def test_a_budget_holds_for_model_objects_too():
    fails(ScriptedModel(), LlmBudgetError, options={"budget": Budget(max_calls=0)})
    uncounted = ScriptedModel(response("5", usage=None))
    options = {"budget": Budget(max_tokens=9)}
    assert "does not say how many tokens" in fails(uncounted, ConfigError, options=options)


def test_errors_of_the_sdk_below_a_real_model_are_told_apart():
    naps = Naps()
    torn = Reply(body=b"{", headers={"connection": "close", "transfer-encoding": "chunked"})

    async def run():
        arguments = {"base_url": server.base_url, "max_retries": 0}
        model = OpenAIChatModel("m", api_key="k", stream=False, client_kwargs=arguments)
        async with make(model, naps=naps) as asked, model.client:
            answer = await asked.ask("2 + 3?")
            with pytest.raises(LlmError, match="too long"):
                await asked.ask("2 + 3?")
            return answer, asked.usage

    busy = refuses(429, retry_after="5")
    with serving([busy, torn, says("5"), refuses(400, "too long"), says("5")]) as server:
        answer, usage = asyncio.run(run())
    assert answer == "5" and 5 <= naps.seconds[0] <= 6
    assert (usage.num_calls, usage.num_retries, usage.num_errors) == (4, 2, 1)
