"""The model over HTTP: who may call, what a call may ask, how it ends, when the server lives."""

import asyncio
import itertools
import json
import socket
import urllib.request
from functools import partial
from types import SimpleNamespace

import httpx
import jinja2
import openai
import pytest

from astuner.errors import ConfigError, WorkflowError
from astuner.gateway.gateway import Gateway
from astuner.inference.shapes.routed import RoutedChat
from astuner.rollout.watchdog import loop_watchdog
from astuner.tuner import ModelTuner
from astuner.types import Task, WorkflowOutput, WorkflowTask
from astuner.workflow import Workflow
from tests.chats import ADD_TOOL, make_chat
from tests.episodes import make_rules, run_episode
from tests.fakes import CHATML, ByteTokenizer, ScriptedEngine
from tests.gateways import QUESTION, gateway_options, serving

CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 2, "b": 3}}\n</tool_call>'


def served(body, script=lambda prompt: "five", **options):
    """Run `body` with a served episode."""

    async def run():
        async with serving(script, **options) as it:
            return await body(it)

    return asyncio.run(run())


def error_of(response):
    return response.json()["error"]


# who may call


def test_an_openai_client_gets_what_the_engine_sampled():
    async def body(it):
        client = it.tuner.as_raw_openai_sdk_client()
        reply = await client.chat.completions.create(model="any", messages=QUESTION)
        (call,) = it.calls
        assert reply.choices[0].message.content == "five" == call.reply["content"]
        assert reply.choices[0].finish_reason == "stop" and reply.model == "any"
        assert reply.usage.prompt_tokens == len(call.prompt_ids)
        assert reply.usage.completion_tokens == len(call.completion.ids) == 5

    served(body)


def test_a_sync_client_in_a_thread_gets_an_answer():
    async def body(it):
        def work():
            client = it.tuner.as_sync_openai_sdk_client()
            return client.chat.completions.create(model="m", messages=QUESTION)

        reply = await asyncio.to_thread(work)
        assert reply.choices[0].message.content == "five"

    served(body)


def run_workflow(make_workflow):
    """An attempt of it, under the watchdog as in a pool."""

    async def run():
        async with Gateway(gateway_options()) as gateway:
            rules = make_rules(
                make_workflow=make_workflow,
                make_chat=lambda recorder, _: make_chat(
                    ScriptedEngine(lambda prompt: "five"), recorder=recorder
                ),
                judge=None,
                gateway=gateway,
                config=SimpleNamespace(),
                timeout_seconds=60.0,
                judge_timeout_seconds=5.0,
                madness_reward=0.0,
            )
            plan = WorkflowTask(
                task=Task(main_query="2 + 3?", task_id="t"),
                episode_id="e",
                step=1,
                attempt=0,
                is_validation=False,
            )
            with loop_watchdog(3600.0, find_port=lambda: gateway.port):
                return await run_episode(plan, rules)

    return asyncio.run(run())


class AsksAndBlocks(Workflow):
    def execute(self, workflow_task, model_tuner):
        client = model_tuner.as_sync_openai_sdk_client()
        reply = client.chat.completions.create(model="m", messages=QUESTION)
        return WorkflowOutput(reward=1.0, metadata={"said": reply.choices[0].message.content})


def test_a_workflow_that_is_not_async_asks_the_gateway_and_blocks():
    episode = run_workflow(AsksAndBlocks)
    assert episode.output.metadata == {"said": "five"} and len(episode.calls) == 1


@pytest.mark.parametrize("client", ["openai", "httpx", "urllib"])
def test_a_call_that_the_same_thread_would_have_to_answer_is_named_by_its_line(client):
    class Waits(AsksAndBlocks):
        async def execute(self, workflow_task, model_tuner):
            url = model_tuner.as_oai_baseurl_apikey().base_url
            if client == "openai":
                return super().execute(workflow_task, model_tuner)
            if client == "httpx":
                return httpx.get(f"{url}/models", timeout=60, trust_env=False)
            return urllib.request.urlopen(f"{url}/models", timeout=60)

    message = run_workflow(Waits).failure.message
    assert "test_gateway.py:" in message and "write `def execute`" in message


def test_the_clients_find_the_gateway_past_a_proxy_of_the_environment(monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")

    async def body(it):
        client = it.tuner.as_raw_openai_sdk_client()
        assert (await client.models.list()).data
        sync = it.tuner.as_sync_openai_sdk_client()
        assert (await asyncio.to_thread(sync.models.list)).data

    served(body)


def test_a_key_stands_for_one_agent_and_its_calls_are_credited_to_it():
    async def body(it):
        for name in ("wolf", "witch", "wolf"):
            client = it.tuner.as_raw_openai_sdk_client(agent_name=name, target_tag=f"{name}s")
            await client.chat.completions.create(model="m", messages=QUESTION)
        seen = [(call.agent_name, call.target_tag) for call in it.calls]
        assert seen == [("wolf", "wolfs"), ("witch", "witchs"), ("wolf", "wolfs")]
        assert it.address("wolf").api_key != it.address("witch").api_key

    served(body)


def test_a_conversation_over_http_extends_one_sequence():
    async def body(it):
        client = it.tuner.as_raw_openai_sdk_client()
        tools = [ADD_TOOL]
        messages = list(QUESTION)
        first = await client.chat.completions.create(model="m", messages=messages, tools=tools)
        (call,) = first.choices[0].message.tool_calls
        assert (call.function.name, json.loads(call.function.arguments)) == (
            "add",
            {"a": 2, "b": 3},
        )
        assert first.choices[0].finish_reason == "tool_calls"
        messages += [
            first.choices[0].message,
            {"role": "tool", "tool_call_id": call.id, "content": "5"},
        ]
        second = await client.chat.completions.create(model="m", messages=messages, tools=tools)
        assert second.choices[0].message.content == "It is 5."
        assert it.calls[1].extends == 0

    served(body, script=[CALL, "It is 5."])


@pytest.mark.parametrize("key", ["nonsense", "sk-astuner-1-00", "sk-astuner--", "ключ"])
def test_a_wrong_key_is_answered_401_and_never_shown(key):
    async def body(it):
        it.address()
        headers = {"authorization": f"Bearer {key}".encode()}
        response = await it.ask(headers=headers)
        assert response.status_code == 401 and error_of(response)["code"] == "invalid_api_key"
        assert key not in response.text
        assert (await it.http.get(f"{it.address().base_url}/models")).status_code == 401

    served(body)


def test_a_key_of_a_finished_episode_is_answered_410_also_for_anthropic():
    async def body(it):
        address = it.address()
        await it.door.close()
        client = openai.AsyncOpenAI(base_url=address.base_url, api_key=address.api_key)
        async with client:
            with pytest.raises(openai.APIStatusError) as caught:
                await client.chat.completions.create(model="m", messages=QUESTION)
        assert caught.value.status_code == 410
        response = await it.http.get(
            f"{address.base_url}/models", headers={"x-api-key": address.api_key}
        )
        assert response.status_code == 410

    served(body)


def test_an_episode_that_is_over_gives_no_address():
    async def body(it):
        await it.door.close()
        with pytest.raises(WorkflowError, match="the episode has ended"):
            it.address()

    served(body)


def test_an_address_never_shows_its_key():
    async def body(it):
        assert it.address().api_key not in repr(it.address())

    served(body)


# what a call may ask

ANSWER = {"role": "assistant", "content": "five"}
FUNCTION = "tool_choice.function"


def _format(schema):
    return {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"functions": []}, "functions"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"top_logprobs": 21, "logprobs": True}, "top_logprobs"),
        ({"stop": [""]}, "stop"),
        ({"n": 0}, "n"),
        ({"max_tokens": True}, "max_tokens"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"response_format": {"type": "grammar"}}, "response_format.type"),
        ({"store": True}, "store"),
        ({"temperature": 1.5}, "temperature"),
        ({"top_p": 0.5}, "top_p"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "robot", "content": ""}]}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"audio": {"voice": "a"}}, "audio"),
        ({"messages": [{**QUESTION[0], "audio": {"id": "a"}}]}, "messages[0].audio"),
        ({"messages": [{**QUESTION[0], "name": 5}]}, "messages"),
        ({"messages": [{**ANSWER, "function_call": {"name": "f"}}]}, "messages[0].function_call"),
        (
            {"messages": [{**ANSWER, "tool_calls": [{"type": "custom", "custom": {}}]}]},
            "messages[0].tool_calls[0].type",
        ),
        ({"tools": [ADD_TOOL], "tool_choice": {"type": "function", "function": "add"}}, FUNCTION),
        ({"tools": [ADD_TOOL], "tool_choice": {"type": "allowed_tools"}}, "tool_choice.type"),
        ({"temperature": 10**400}, "temperature"),
        ({"top_k": 10**400}, "top_k"),
        ({"max_tokens": 10**400}, "max_tokens"),
        ({"response_format": _format({"$ref": "#"})}, "response_format"),
        ({"response_format": _format({"$ref": "#/$defs/none"})}, "response_format"),
    ],
)
def test_what_is_not_supported_is_refused_by_its_name(fields, param):
    async def body(it):
        response = await it.ask(**fields)
        assert response.status_code == 400, response.text
        assert error_of(response)["param"] == param
        assert error_of(response)["type"] == "invalid_request_error"
        assert it.calls == []

    served(body)


@pytest.mark.parametrize(
    ("path", "body", "unknown"),
    [
        ("chat/completions", {"messages": QUESTION, "zeta": 1, "alpha": 2}, ["alpha", "zeta"]),
        (
            "chat/completions",
            {
                "messages": [{**QUESTION[0], "audio": {}}],
                "tools": [{**ADD_TOOL, "returns": {}}],
                "stream_options": {"often": True},
                "beta": 1,
            },
            ["beta", "messages[0].audio", "stream_options.often", "tools[0].returns"],
        ),
        ("completions", {"prompt": "a", "logits": 1, "user_id": "b"}, ["logits", "user_id"]),
        (
            "responses",
            {
                "input": [{"role": "user", "content": "hi", "mood": 1}],
                "reasoning": {"depth": 1},
                "text": {"size": 5},
                "gamma": 1,
            },
            ["gamma", "input[0].mood", "reasoning.depth", "text.size"],
        ),
        (
            "messages",
            {
                "max_tokens": 5,
                "messages": [{"role": "user", "content": "hi", "mood": 1}],
                "thinking": {"type": "disabled", "depth": 1},
                "gamma": 1,
            },
            ["gamma", "messages[0].mood", "thinking.depth"],
        ),
    ],
)
def test_all_unknown_fields_of_a_body_are_named_at_once(path, body, unknown):
    async def ask(it):
        response = await it.post(path, body)
        assert response.status_code == 400
        message = error_of(response)["message"]
        assert message.startswith(", ".join(unknown) + ": ") and "leave them out" in message
        assert error_of(response).get("param", unknown[0]) == unknown[0]

    served(ask)


def test_so_many_unknown_fields_that_nobody_reads_them_are_counted():
    async def body(it):
        response = await it.ask(**{f"field{index:04}": 1 for index in range(1000)})
        message = error_of(response)["message"]
        assert response.status_code == 400 and len(message) < 2000
        assert "field0000" in message and "980 more" in message

    served(body)


@pytest.mark.parametrize("count", ["9" * 5000, "1" * 20])
def test_a_retry_count_that_is_no_count_is_answered_400(count):
    async def body(it):
        response = await it.ask(headers={"x-stainless-retry-count": count})
        assert response.status_code == 400
        assert "x-stainless-retry-count" in error_of(response)["message"]
        assert (await it.ask(headers={"x-stainless-retry-count": "1"})).status_code == 200

    served(body)


NUMBERS = ["1e999", "-1e999", "7" * 5000]


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("responses", '"input": "hi", "metadata": {"a": NUMBER}'),
        (
            "responses",
            '"input": "hi", "tools": [{"type": "function", "name": "f", '
            '"parameters": {"type": "object", "maximum": NUMBER}}]',
        ),
        (
            "chat/completions",
            '"messages": [{"role": "user", "content": "a"}], "temperature": NUMBER',
        ),
        (
            "messages",
            '"max_tokens": 5, "messages": [{"role": "user", "content": "a"}], '
            '"metadata": {"a": [NUMBER]}',
        ),
    ],
)
def test_a_number_that_is_none_is_answered_400_before_anything_is_said(path, fields):
    async def body(it):
        for number, stream in itertools.product(NUMBERS, ("false", "true")):
            text = f'{{{fields.replace("NUMBER", number)}, "stream": {stream}}}'
            response = await it.post(path, text)
            assert response.status_code == 400, response.text
            assert error_of(response)["message"] and it.calls == []

    served(body)


def test_a_body_that_is_too_deep_is_answered_400():
    async def body(it):
        for depth in (150, 400, 800, 900, 950, 980, 990, 5000):
            nested = '{"a":' * depth + "1" + "}" * depth
            deep = f'{{"input": "hi", "metadata": {nested}}}'
            response = await it.post("responses", deep)
            assert response.status_code == 400, depth
            assert "deep" in error_of(response)["message"]

    served(body)


def test_roles_that_the_template_refuses_are_the_callers_fault():
    picky = "{{ raise_exception('roles must alternate') if messages|length > 2 }}" + CHATML

    class Picky(ByteTokenizer):
        def __init__(self):
            super().__init__(picky)
            self._template.globals["raise_exception"] = self._refuse

        def _refuse(self, what):
            raise jinja2.TemplateError(what)

    async def body(it):
        response = await it.ask(messages=QUESTION * 3)
        assert response.status_code == 400 and error_of(response)["param"] == "messages"
        assert "roles must alternate" in error_of(response)["message"]

    served(body, tokenizer=Picky())


def test_a_tool_without_a_schema_is_refused_before_anything_is_sampled():
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "objct"}}}

    async def body(it):
        assert (await it.ask(tools=[tool])).status_code == 200, "nobody looks at it"
        it.chat._checks_tools = True
        response = await it.ask(tools=[tool])
        assert response.status_code == 400 and error_of(response)["param"] == "tools"
        assert len(it.engine.indices) == 1

    served(body)


def test_a_run_without_tools_refuses_a_demanded_tool():
    async def body(it):
        it.chat._offers_tools = False
        assert (await it.ask(tools=[ADD_TOOL])).status_code == 200
        response = await it.ask(tools=[ADD_TOOL], tool_choice="required")
        assert response.status_code == 400 and error_of(response)["param"] == "tool_choice"
        assert "agentscope_disable_toolcalls" in error_of(response)["message"]

    served(body)


def test_a_name_reaches_the_template_but_not_that_of_a_reply():
    async def body(it):
        named = {**QUESTION[0], "name": "Ann"}
        reply = message_of(await it.ask(messages=[named]))
        history = [named, {**reply, "name": "Friday"}, {**named, "content": "Sure?"}]
        assert (await it.ask(messages=history)).status_code == 200
        assert "user Ann\nWhat" in it.chat._template.decode(it.calls[1].prompt_ids)
        assert it.calls[1].extends == 0

    named = CHATML.replace("{{ m.role }}", "{{ m.role }}{{ ' ' + m.name if m.name }}")
    served(body, tokenizer=ByteTokenizer(named))


def test_what_changes_nothing_is_accepted():
    async def body(it):
        response = await it.ask(
            temperature=0.7,
            top_p=1,
            user="u",
            metadata={"a": "b"},
            store=False,
            service_tier="auto",
            parallel_tool_calls=True,
            presence_penalty=0,
            logit_bias={},
            n=1,
            tools=None,
            seed=3,
        )
        assert response.status_code == 200

    served(body)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[1]",
        "null",
        '{"messages": NaN',
        "\ud83d".encode("utf-8", "surrogatepass"),
        b'{"messages": [{"role": "user", "content": "\xed\xa0\xbd"}]}',
        '{"messages": [{"role": "user", "content": "?"}]}'.encode("utf-16"),
        '{"messages": [{"role": "user", "content": "?"}], "temperature": NaN}',
        "[" * 50_000,
        '{"messages": [{"role": "user", "content": "\\ud83d"}]}',
    ],
)
def test_a_body_that_is_no_object_is_answered_400(text):
    async def body(it):
        response = await it.post("chat/completions", text)
        assert response.status_code == 400 and error_of(response)["message"]

    served(body)


def test_a_stop_string_cuts_ids_and_text_at_the_same_token():
    async def body(it):
        response = await it.ask(stop=["END", "never"])
        (choice,) = response.json()["choices"]
        assert (choice["message"]["content"], choice["finish_reason"]) == ("one two ", "stop")
        (call,) = it.calls
        assert bytes(call.completion.ids) == b"one two END"
        assert len(call.completion.logprobs) == len(call.completion.ids)
        assert call.completion.finish_reason == "cut"
        messages = [*QUESTION, choice["message"], {"role": "user", "content": "Go on."}]
        assert (await it.ask(messages=messages)).status_code == 200
        assert it.calls[1].extends == 0
        rest = it.calls[1].prompt_ids[len(call.ids) :]
        assert rest[0] == 257, "the end of turn that was not sampled is given"

    served(body, script=["one two ENDING", "ok"])


def test_one_call_only_ends_the_reply_behind_the_first_call():
    async def body(it):
        response = await it.ask(tools=[ADD_TOOL], parallel_tool_calls=False)
        (choice,) = response.json()["choices"]
        assert len(choice["message"]["tool_calls"]) == 1
        assert choice["finish_reason"] == "tool_calls"
        assert bytes(it.calls[0].completion.ids).decode() == CALL

    served(body, script=[f"{CALL}\n{CALL}"])


def test_max_tokens_is_cut_to_what_the_run_allows():
    async def body(it):
        response = await it.ask(max_completion_tokens=2)
        (choice,) = response.json()["choices"]
        assert (choice["message"]["content"], choice["finish_reason"]) == ("fi", "length")
        assert not it.chat.recorder.context_overflow
        assert (await it.ask(max_tokens=10**9)).json()["choices"][0]["finish_reason"] == "stop"

    served(body)


def test_several_choices_are_as_many_calls():
    async def body(it):
        response = await it.ask(n=3)
        texts = [choice["message"]["content"] for choice in response.json()["choices"]]
        assert texts == ["a", "b", "c"] and len(it.calls) == 3
        usage = response.json()["usage"]
        assert usage["completion_tokens"] == 6
        assert usage["prompt_tokens"] == len(it.calls[0].prompt_ids)

    served(body, script=["a", "b", "c"])


def test_logprobs_are_the_engines_own():
    async def body(it):
        response = await it.ask(logprobs=True, top_logprobs=2)
        content = response.json()["choices"][0]["logprobs"]["content"]
        assert [entry["token"] for entry in content] == list("five")
        assert [entry["logprob"] for entry in content] == list(it.calls[0].completion.logprobs[:-1])
        assert content[0]["bytes"] == [ord("f")]
        for entry in content:
            assert [top["token"] for top in entry["top_logprobs"]] == ["A", "B"]

    served(body)


def test_a_seed_names_the_random_stream_within_the_episode():
    async def body(it):
        for fields in ({"seed": 7}, {}, {"seed": 7}, {"seed": 0, "n": 2}):
            await it.ask(**fields)
        assert it.engine.indices == [-8, 0, -8, -1, -2]

    served(body)


def test_a_client_cannot_change_what_is_trained_but_may_name_it_in_a_validation():
    async def training(it):
        response = await it.ask(temperature=0.2)
        message = error_of(response)["message"]
        assert "0.2" in message and "rollout.temperature" in message
        assert error_of(response)["code"] == "unsupported_value"

    async def validation(it):
        for allowed in (0.7, 0.0):
            assert (await it.ask(temperature=allowed)).status_code == 200
        assert (await it.ask(temperature=0.2)).status_code == 400

    served(training)
    served(validation, is_validation=True)


def test_sampling_may_be_replaced_where_the_run_says_so(caplog):
    async def body(it):
        for _ in range(2):
            response = await it.ask(temperature=0.2, top_p=0.5)
            assert response.headers["x-astuner-sampling"] == "replaced temperature, top_p"
        assert {call.temperature for call in it.calls} == {0.7}

    served(body, client_sampling="replace")
    assert sum("client sampling replaced" in r.message for r in caplog.records) == 1


# JSON answers

SCHEMA = {
    "type": "json_schema",
    "json_schema": {
        "name": "vote",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {"vote": {"enum": ["yes", "no"]}},
            "required": ["vote"],
        },
    },
}


@pytest.mark.parametrize(
    ("script", "wanted", "check"),
    [
        (['{"vote": "yes"}'], '{"vote": "yes"}', "validated"),
        (["I vote yes", '{"vote": "no"}'], '{"vote": "no"}', "repaired"),
        (['{"vote": 1}', "yes!"], "yes!", "invalid"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_json_answers_are_validated_and_repaired_once(script, wanted, check, stream):
    async def body(it):
        response = await it.ask(response_format=SCHEMA, stream=stream)
        assert response.headers["x-astuner-format"] == check
        text = streamed_text(response) if stream else message_of(response)["content"]
        assert text == wanted
        assert len(it.calls) == len(script)
        assert [call.format_check for call in it.calls][-1] == check
        if len(script) == 2:
            assert it.calls[1].extends == 0 and '"enum"' in it.calls[1].messages[-1]["content"]

    served(body, script=list(script))


def test_an_object_is_enough_for_json_object():
    async def body(it):
        response = await it.ask(response_format={"type": "json_object"})
        assert response.headers["x-astuner-format"] == "repaired"
        assert message_of(response)["content"] == "{}"

    served(body, script=["[1]", "{}"])


def test_a_format_that_is_no_schema_is_refused():
    async def body(it):
        schema = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": 5}}}
        response = await it.ask(response_format=schema)
        assert response.status_code == 400 and error_of(response)["param"] == "response_format"

    served(body)


def message_of(response):
    return response.json()["choices"][0]["message"]


def chunks_of(response):
    lines = [line for line in response.text.split("\n\n") if line]
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def streamed_text(response):
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks_of(response) if chunk["choices"]]
    return "".join(delta.get("content") or "" for delta in deltas)


# how a call ends


def test_a_body_over_the_bound_is_answered_413_and_a_smaller_one_works_afterwards():
    async def body(it):
        for content in ("x" * 5_000_000, chunked("x" * 50_000, times=4)):
            response = (
                await it.post("chat/completions", content)
                if isinstance(content, str)
                else await it.http.post(
                    f"{it.address().base_url}/chat/completions",
                    content=content,
                    headers={"authorization": f"Bearer {it.address().api_key}"},
                )
            )
            assert response.status_code == 413 and "100000" in error_of(response)["message"]
        assert (await it.ask()).status_code == 200

    served(body)


async def chunked(text, *, times):
    for _ in range(times):
        yield text.encode()


def test_too_many_waiting_calls_are_answered_503_with_retry_after():
    async def body(it):
        waiting = [asyncio.create_task(it.ask(user=str(i))) for i in range(2)]
        await until(lambda: it.engine.running == 2)
        response = await it.ask()
        assert response.status_code == 503 and response.headers["retry-after"] == "1"
        assert error_of(response)["code"] == "too_many_waiting"
        assert [(await task).status_code for task in waiting] == [200, 200]
        assert (await it.ask()).status_code == 200

    served(body, script=ScriptedEngine(lambda p: "five", delay_seconds=0.3), max_waiting_calls=2)


async def until(condition, *, seconds=5.0):
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.002)


def test_calls_that_are_ended_are_answered_410_and_their_engine_is_free():
    async def body(it):
        call = asyncio.create_task(it.ask())
        await until(lambda: it.engine.running == 1)
        it.door.end_calls()
        assert (await call).status_code == 410
        assert it.engine.cancelled == 1 and it.calls == []

    served(body, script=ScriptedEngine(lambda p: "late", delay_seconds=30))


class TurnedLoop(asyncio.SelectorEventLoop):
    """Its clock goes on by `ahead_seconds`, as while the process is stopped."""

    ahead_seconds = 0.0

    def time(self):
        return super().time() + self.ahead_seconds


def test_a_door_outlasts_the_time_in_which_the_process_was_stopped():
    async def run():
        async with Gateway(gateway_options()) as gateway:
            door = gateway.open(make_chat([]), seconds=5, is_validation=False)
            loop = asyncio.get_running_loop()
            assert isinstance(loop, TurnedLoop)
            loop.ahead_seconds = 3600.0
            for _ in range(3):
                await asyncio.sleep(0)
            assert door.address(agent_name="a", target_tag="t").api_key
            door.end_calls()
            with pytest.raises(WorkflowError, match="the episode has ended"):
                door.address(agent_name="b", target_tag="t")
            await door.close()

    with asyncio.Runner(loop_factory=TurnedLoop) as runner:
        runner.run(run())


def test_an_episode_that_ends_cancels_its_calls_and_answers_them_410():
    async def body(it):
        calls = [asyncio.create_task(it.ask(stream=stream)) for stream in (True, False)]
        await until(lambda: it.engine.running == 2)
        await it.door.close()
        assert [(await call).status_code for call in calls] == [410, 410]
        assert it.engine.cancelled == 2

    served(body, script=ScriptedEngine(lambda p: "late", delay_seconds=30))


def test_an_engine_that_fails_is_answered_500_with_its_reason():
    class Broken(ScriptedEngine):
        async def generate(self, *args, **options):
            from astuner.errors import EngineError

            raise EngineError("out of memory while generating")

    async def body(it):
        for stream in (False, True):
            response = await it.ask(stream=stream)
            assert response.status_code == 500
            assert error_of(response)["message"] == "out of memory while generating"

    served(body, script=Broken([]))


def test_a_mad_episode_refuses_further_calls_with_410():
    async def body(it):
        assert (await it.ask()).status_code == 200
        response = await it.ask()
        assert response.status_code == 410 and "madness" in error_of(response)["message"]

    served(body, find_madness=lambda reply: "nonsense")


# when the server lives


def test_the_tuned_model_is_listed_and_health_needs_no_key():
    async def body(it):
        client = it.tuner.as_raw_openai_sdk_client()
        assert [model.id async for model in client.models.list()] == ["models/small"]
        base_url = it.address().base_url.removesuffix("/v1")
        health = await it.http.get(f"{base_url}/healthz")
        assert health.json()["status"] == "ok"
        missing = await it.http.get(f"{base_url}/v1/files")
        assert missing.status_code == 404 and error_of(missing)["code"] == "not_found"

    served(body)


def test_nothing_listens_before_somebody_asks_and_nothing_after_the_run():
    async def run():
        async with Gateway(gateway_options()) as gateway:
            door = gateway.open(make_chat([]), seconds=5, is_validation=False)
            assert gateway._server is None
            address = door.address(agent_name="a", target_tag="t")
            async with httpx.AsyncClient() as http:
                assert (await http.get(f"{address.base_url}/models")).status_code == 401
        async with httpx.AsyncClient() as http:
            with pytest.raises(httpx.ConnectError):
                await http.get(f"{address.base_url}/models")
        with pytest.raises(WorkflowError, match="the run has ended"):
            door.address(agent_name="b", target_tag="t")

    asyncio.run(run())


@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1"])
def test_the_address_is_one_that_can_be_reached_or_the_one_to_be_told(host):
    async def body(it):
        assert "0.0.0.0" not in it.address().base_url
        assert (await it.ask()).status_code == 200

    served(body, host=host)

    async def told(it):
        assert it.address().base_url.startswith("http://gateway.example:")

    served(told, host=host, advertised_host="gateway.example")


def test_a_run_that_ends_at_once_stops_the_server_that_was_just_asked_for():
    async def run():
        async with Gateway(gateway_options()) as gateway:
            door = gateway.open(make_chat([]), seconds=5, is_validation=False)
            return door.address(agent_name="a", target_tag="t")

    assert asyncio.run(run()).base_url.startswith("http://127.0.0.1:")


def test_a_taken_port_is_a_configuration_error_that_says_so():
    async def run(port):
        async with Gateway(gateway_options(port=port)) as gateway:
            door = gateway.open(make_chat([]), seconds=5, is_validation=False)
            door.address(agent_name="a", target_tag="t")

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"gateway\.port {port}: cannot listen"):
            asyncio.run(run(port))


def test_a_tuner_without_a_gateway_and_an_untrained_agent_without_a_model_have_no_address():
    with pytest.raises(WorkflowError, match="without a gateway"):
        ModelTuner(make_chat([])).as_oai_baseurl_apikey()

    async def body(it):
        tuner = ModelTuner(RoutedChat(it.chat, trainable_targets=["wolf"]), door=it.door)
        assert tuner.as_oai_baseurl_apikey("a", "wolf").api_key
        with pytest.raises(ConfigError, match="'witch' is not among the trainable_targets"):
            tuner.as_raw_openai_sdk_client("a", "witch")

    served(body)


TASK = WorkflowTask(
    task=Task(main_query="What is 2 + 3?", task_id="t"),
    episode_id="e",
    step=1,
    attempt=0,
    is_validation=False,
)


def run_in_episode(body, *, engine=None, timeout_seconds=10.0, afterwards=lambda: None):
    """Run `body` as a workflow; returns the episode."""

    class Custom(Workflow):
        async def execute(self, workflow_task, model_tuner):
            return await body(model_tuner)

    def chat_of(recorder, _task):
        chat = make_chat(engine or ScriptedEngine(lambda prompt: "five"))
        chat.recorder = recorder
        return chat

    async def run():
        async with Gateway(gateway_options()) as gateway:
            settings = make_rules(
                make_workflow=Custom,
                make_chat=chat_of,
                judge=None,
                config=SimpleNamespace(),
                timeout_seconds=timeout_seconds,
                judge_timeout_seconds=5,
                madness_reward=-1.0,
                gateway=gateway,
            )
            episode = await run_episode(TASK, settings)
            await asyncio.sleep(0)
            afterwards()
            return episode

    return asyncio.run(run())


def test_a_workflow_asks_over_http_and_its_clients_are_closed_with_the_episode():
    kept = []

    async def body(tuner):
        client = tuner.as_raw_openai_sdk_client()
        kept.append(client)
        reply = await client.chat.completions.create(model="m", messages=QUESTION)
        return WorkflowOutput(reward=1.0, metadata={"said": reply.choices[0].message.content})

    episode = run_in_episode(body)
    assert episode.verdict is not None and episode.metadata == {"said": "five"}
    assert len(episode.sequences) == 1 and episode.sequences[0].num_trained == 5
    assert kept[0].is_closed()


@pytest.mark.parametrize("stream", [False, True])
def test_names_of_calls_hold_over_http(stream):
    async def body(tuner):
        client = tuner.as_raw_openai_sdk_client()
        ask = partial(client.chat.completions.create, model="m", messages=QUESTION, stream=stream)
        for name, state in (("plan", "start"), ("answer", None), (None, None)):
            tuner.name_calls(name, state=state)
            reply = await ask()
            assert not stream or [part async for part in reply]
        return WorkflowOutput(step_rewards={"plan": 0.5, "answer": 1.0})

    episode = run_in_episode(body)
    named = [(call.name, call.state) for call in episode.calls]
    assert named == [("plan", "start"), ("answer", None), (None, None)]
    assert episode.verdict.call_rewards == (0.5, 1.0, 0.0) and episode.verdict.reward == 1.5


@pytest.mark.parametrize("over_http", [False, True])
def test_a_call_that_a_workflow_leaves_running_ends_with_the_episode(over_http):
    left = []

    async def body(tuner):
        client = tuner.as_raw_openai_sdk_client()
        asking = (
            client.chat.completions.create(model="m", messages=QUESTION)
            if over_http
            else tuner(QUESTION)
        )
        left.append(asyncio.create_task(asking))
        await until(lambda: engine.running == 1)
        return WorkflowOutput(reward=1.0)

    def afterwards():
        assert (engine.cancelled, engine.running) == (1, 0)

    engine = ScriptedEngine(lambda p: "late", delay_seconds=30)
    episode = run_in_episode(body, engine=engine, afterwards=afterwards)
    assert episode.verdict is not None and episode.calls == ()


def test_a_thread_that_waits_over_the_deadline_is_released():
    async def body(tuner):
        def work():
            client = tuner.as_sync_openai_sdk_client()
            client.chat.completions.create(model="m", messages=QUESTION)

        await asyncio.to_thread(work)

    engine = ScriptedEngine(lambda p: "late", delay_seconds=30)
    episode = run_in_episode(body, engine=engine, timeout_seconds=0.5)
    assert episode.failure is not None and "0.5 s" in episode.failure.message
    assert engine.cancelled == 1 and episode.seconds < 20
