"""What becomes of a call that is refused: record, log, metric, screen, end of the run."""

import asyncio
import contextlib
import json
import logging
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import yaml

from astuner.algorithm.step_metrics import rollout_metrics
from astuner.cli import main
from astuner.errors import BackboneError, EngineError, EpisodeError
from astuner.gateway.gateway import Gateway
from astuner.inference.request import ChatRequest
from astuner.inference.shapes.noted import NotedChat
from astuner.rollout.refused import check_answered
from astuner.run_dir import read_json_lines
from astuner.trajectory.episode import Group
from astuner.trajectory.record import episode_from_record, episode_to_record
from astuner.trajectory.refusal_log import RefusalLog
from astuner.trajectory.refused import IN_PROCESS, MAX_CHARACTERS, MAX_KINDS
from astuner.types import Task, WorkflowOutput, WorkflowTask
from astuner.workflow import Workflow
from tests.chats import ADD_TOOL, WIDE, make_chat
from tests.episodes import make_rules, run_episode
from tests.fakes import ScriptedEngine
from tests.gateways import QUESTION, gateway_options, serving

CHAT = "/v1/chat/completions"


def play(send, *, script=lambda prompt: "five", num_episodes=1, limits=WIDE, **options):
    """Episodes, one after another in one run, whose agent is `send`: a coroutine that posts."""

    class Asking(Workflow):
        name: str = "asking"

        async def execute(self, workflow_task, model_tuner):
            address = model_tuner.as_oai_baseurl_apikey("ann")
            headers = {"authorization": f"Bearer {address.api_key}"}
            root = address.base_url.removesuffix("/v1")
            async with httpx.AsyncClient(base_url=root, headers=headers, trust_env=False) as http:
                await send(http)
            return WorkflowOutput(reward=1.0)

    return play_workflow(Asking, script=script, num_episodes=num_episodes, limits=limits, **options)


def play_in_process(call, **options):
    """The same for an agent that calls `model_tuner`: `call` is a coroutine that does."""

    class Calling(Workflow):
        name: str = "calling"

        async def execute(self, workflow_task, model_tuner):
            with contextlib.suppress(EpisodeError):
                await call(model_tuner)
            return WorkflowOutput(reward=1.0)

    return play_workflow(Calling, **options)


def play_workflow(
    make_workflow, *, script=lambda prompt: "five", num_episodes=1, limits=WIDE, **options
):
    async def run():
        async with Gateway(gateway_options(**options)) as gateway:
            engine = ScriptedEngine(script)
            rules = make_rules(
                make_workflow=make_workflow,
                make_chat=lambda recorder, task: make_chat(
                    engine, recorder=recorder, limits=limits
                ),
                config=None,
                timeout_seconds=20,
                judge=None,
                judge_timeout_seconds=5,
                madness_reward=-1.0,
                gateway=gateway,
            )
            return [
                await run_episode(
                    WorkflowTask(
                        task=Task(main_query="?", task_id="t"),
                        episode_id=f"e{index}",
                        step=1,
                        attempt=index,
                        is_validation=False,
                    ),
                    rules,
                )
                for index in range(num_episodes)
            ]

    return asyncio.run(run())


def ask(**fields):
    """An agent that asks once and swallows whatever comes of it."""

    async def send(http):
        await http.post(CHAT, json={"messages": QUESTION, **fields})

    return send


def only(episode):
    ((call, times),) = episode.refused_calls.items()
    assert times == episode.num_refused_calls == 1
    return call


def test_a_refused_call_stands_in_the_record_and_an_answered_one_does_not():
    (episode,) = play(ask(logit_bias={"5": 1}))
    call = only(episode)
    assert (call.path, call.status, call.field) == (CHAT, 400, "logit_bias")
    assert "top_p and top_k alone" in call.message and episode.calls == ()
    line = json.loads(json.dumps(episode_to_record(episode)))
    assert line["refused_calls"] == [
        {
            "path": CHAT,
            "status": 400,
            "field": "logit_bias",
            "message": call.message,
            "times": 1,
        }
    ]
    again = episode_from_record(line)
    assert again.refused_calls == episode.refused_calls and again.num_refused_calls == 1

    (answered,) = play(ask())
    assert answered.refused_calls == {} and len(answered.calls) == 1
    record = episode_to_record(answered)
    assert "refused_calls" not in record and "num_refused_calls" not in record
    assert episode_from_record(record).num_refused_calls == 0


def broken_engine(prompt):
    raise EngineError("the engine has no memory left")


@pytest.mark.parametrize("stream", [False, True])
def test_what_the_engine_could_not_answer_is_refused_too(stream):
    (episode,) = play(ask(stream=stream), script=broken_engine)
    call = only(episode)
    assert call.status == 500 and "no memory left" in call.message


def test_a_bug_behind_the_gateway_is_a_refused_call():
    def bug(prompt):
        raise ZeroDivisionError("a bug")

    async def send(http):
        assert (await http.post(CHAT, json={"messages": QUESTION})).status_code == 500

    (episode,) = play(send, script=bug)
    assert only(episode).status == 500 and "ZeroDivisionError" in only(episode).message


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("POST", "/v1/v1/chat/completions", 404), ("POST", "/v1/embeddings", 404), ("GET", CHAT, 405)],
)
def test_a_call_of_what_is_not_served_is_refused_too(method, path, status):
    (episode,) = play(lambda http: http.request(method, path))
    assert (only(episode).path, only(episode).status) == (path, status)


def test_a_call_that_finds_no_place_to_wait_is_refused_too():
    (episode,) = play(ask(), max_waiting_calls=0)
    assert only(episode).status == 503 and "max_waiting_calls" in only(episode).message


def test_an_answer_without_room_for_a_token_counts_as_refused():
    limits = replace(WIDE, max_model_len=100)
    (episode,) = play(ask(messages=[{"role": "user", "content": "long " * 100}]), limits=limits)
    call = only(episode)
    assert call.status == 200 and "no room" in call.message and episode.context_overflow


def test_what_is_kept_of_refused_calls_is_bounded_and_all_are_counted():
    async def send(http):
        for index in range(MAX_KINDS + 8):
            await http.post(CHAT, json={"messages": QUESTION, f"{index}" * 4000: 1})
        for _ in range(3):
            await http.post(CHAT, content=b"[]")

    (episode,) = play(send)
    assert episode.num_refused_calls == MAX_KINDS + 11
    assert len(episode.refused_calls) == MAX_KINDS
    assert all(len(call.message) <= MAX_CHARACTERS for call in episode.refused_calls)
    assert len(json.dumps(episode_to_record(episode))) < 60_000


def test_alike_refused_calls_are_one_entry():
    async def send(http):
        for _ in range(500):
            await http.post(CHAT, content=b"[]")

    (episode,) = play(send)
    assert list(episode.refused_calls.values()) == [500]


def test_the_log_names_each_kind_of_refusal_once_in_a_run(caplog):
    async def send(http):
        for index in range(3):
            messages = [*QUESTION * index, {**QUESTION[0], "audio": {}}]
            await http.post(CHAT, json={"messages": messages})
        await http.post(CHAT, json={"messages": QUESTION, "store": True})

    with caplog.at_level(logging.WARNING, logger="astuner"):
        episodes = play(send, num_episodes=3)
    assert [episode.num_refused_calls for episode in episodes] == [4, 4, 4]
    told = [r.getMessage() for r in caplog.records if "call refused" in r.getMessage()]
    assert len(told) == 2
    assert "status=400" in told[0] and "messages[0].audio" in told[0] and CHAT in told[0]


def test_a_client_cannot_fill_the_log_or_write_lines_of_its_own(caplog):
    async def send(http):
        for index in range(300):
            await http.post(f"/v1/{index}%0Astep%20failed", json={})

    with caplog.at_level(logging.WARNING, logger="astuner"):
        (episode,) = play(send)
    told = [r.getMessage() for r in caplog.records if "refused" in r.getMessage()]
    assert 0 < len(told) < 100 and not any("\n" in line for line in told)
    assert not any("\n" in call.path for call in episode.refused_calls)


def test_calls_of_an_episode_that_a_check_ended_are_refused():
    async def body():
        async with serving(lambda prompt: "five", find_madness=lambda reply: "nonsense") as it:
            assert [(await it.ask()).status_code for _ in range(3)] == [200, 410, 410]
            assert {call.status for call in it.chat.recorder.refused} == {410}
            assert it.chat.recorder.num_refused == 2

    asyncio.run(body())


def test_the_end_of_an_episode_refuses_nothing():
    async def body():
        async with serving(lambda prompt: "five") as it:
            address = it.address()
            await it.door.close()
            headers = {"authorization": f"Bearer {address.api_key}"}
            response = await it.http.post(
                f"{address.base_url}/chat/completions", headers=headers, json={}
            )
            assert response.status_code == 410
            assert it.chat.recorder.num_refused == 0

    asyncio.run(body())


def test_the_metrics_of_a_step_count_refused_calls():
    episodes = play(ask(n=0), num_episodes=2)
    group = Group(task=Task(main_query="?", task_id="t"), episodes=tuple(episodes))
    assert rollout_metrics([group], seconds=1.0)["rollout/refused_calls"] == 2


def test_a_step_without_an_answered_call_ends_with_the_commonest_refusal():
    async def send(http):
        await http.post(CHAT, content=b"[]")
        await http.post(CHAT, json={"messages": QUESTION, "functions": []})
        await http.post(CHAT, json={"messages": QUESTION, "functions": []})

    refused = play(send, num_episodes=2)
    with pytest.raises(BackboneError) as error:
        check_answered(refused, where="step 3")
    message = str(error.value)
    assert (
        message.startswith("step 3: ")
        and "no model call of 2 episodes was answered, and 6 were refused" in message
    )
    assert f"(4 times): {CHAT} 400 functions" in message and "leave it out" in message


def test_a_step_with_one_answered_call_or_without_any_goes_on():
    answered, refused = play(ask()), play(ask(n=0))
    check_answered([*refused, *answered], where="step 1")
    check_answered([], where="step 1")

    async def silent(http):
        pass

    check_answered(play(silent), where="step 1")


@pytest.mark.parametrize(
    ("messages", "arguments", "script", "status", "field"),
    [
        ([{"role": "nobody", "content": "?"}], {}, None, 400, "messages"),
        (QUESTION, {"tool_choice": "add", "tools": [ADD_TOOL]}, "broken", 500, None),
        (QUESTION, {"tool_choice": "mul", "tools": [ADD_TOOL]}, None, 400, "tool_choice"),
        (QUESTION, {"temperature": 0.1}, None, 400, "temperature"),
    ],
)
def test_a_call_in_this_process_that_a_workflow_swallows_is_refused_too(
    messages, arguments, script, status, field, caplog
):
    with caplog.at_level(logging.WARNING, logger="astuner"):
        episodes = play_in_process(
            lambda model: model(messages, **arguments),
            script=broken_engine if script else lambda prompt: "five",
            num_episodes=2,
        )
    for episode in episodes:
        call = only(episode)
        assert (call.path, call.status, call.field) == (IN_PROCESS, status, field)
        assert episode.failure is None
    assert len([r for r in caplog.records if "call refused" in r.getMessage()]) == 1
    with pytest.raises(BackboneError, match=f"the commonest refusal .*: {IN_PROCESS} {status}"):
        check_answered(episodes, where="step 1")


def test_a_call_over_http_is_counted_once():
    (episode,) = play(ask(messages=[{"role": "nobody", "content": "?"}]))
    assert only(episode).path == CHAT


def test_an_answer_in_this_process_without_room_for_a_token_counts_as_refused():
    async def body():
        chat = make_chat(["five"], limits=replace(WIDE, max_model_len=10))
        reply = await NotedChat(chat, RefusalLog()).complete(ChatRequest(messages=QUESTION))
        assert reply.is_empty
        ((call, times),) = chat.recorder.refused.items()
        assert (call.path, call.status, times) == (IN_PROCESS, 200, 1)

    asyncio.run(body())


NO_ROOM = replace(WIDE, max_model_len=10)
ASKED = {"messages": QUESTION, "max_tokens": 5}


@pytest.mark.parametrize(
    ("path", "body", "num_replies"),
    [
        (CHAT, ASKED, 1),
        (CHAT, {**ASKED, "stream": True}, 1),
        (CHAT, {**ASKED, "n": 3}, 3),
        (CHAT, {**ASKED, "response_format": {"type": "json_object"}}, 1),
        ("/v1/completions", {"prompt": "a long enough prompt"}, 1),
        ("/v1/messages", ASKED, 1),
        ("/v1/responses", {"input": "a long enough prompt"}, 1),
    ],
)
def test_an_empty_reply_is_told_from_a_refusal_at_every_door(path, body, num_replies, caplog):
    async def send(http):
        assert (await http.post(path, json={"model": "m", **body})).status_code == 200
        assert (await http.post(path, content=b"[]")).status_code == 400

    with caplog.at_level(logging.WARNING, logger="astuner"):
        (episode,) = play(send, limits=NO_ROOM)
    told = [f"{call.path} {call.status}" for call in episode.refused_calls]
    assert told == [f"{path} 200", f"{path} 400"]
    group = Group(task=episode.task, episodes=(episode,))
    metrics = rollout_metrics([group], seconds=1.0)
    assert metrics["rollout/empty_replies"] == num_replies
    assert metrics["rollout/refused_calls"] == num_replies + 1
    again = episode_from_record(episode_to_record(episode))
    assert again.num_empty_replies == num_replies
    assert [r.getMessage()[:11] for r in caplog.records] == ["reply empty", "call refuse"]


def test_an_empty_reply_that_is_sent_again_is_counted_once():
    async def send(http):
        for _ in range(2):
            await http.post(CHAT, json=ASKED, headers={"idempotency-key": "one"})

    (episode,) = play(send, limits=NO_ROOM)
    assert episode.num_empty_replies == 1


def test_a_call_in_this_process_behind_the_end_of_its_episode_is_no_refusal():
    async def body():
        chat = make_chat(["five"])
        chat.recorder.end("out of time")
        with pytest.raises(EpisodeError):
            await NotedChat(chat, RefusalLog()).complete(ChatRequest(messages=QUESTION))
        assert chat.recorder.num_refused == 0

    asyncio.run(body())


AGENT = """
import httpx
from astuner import Workflow, WorkflowOutput

class Swallowing(Workflow):
    name: str = "swallowing"

    async def execute(self, workflow_task, model_tuner):
        address = model_tuner.as_oai_baseurl_apikey()
        headers = {"authorization": f"Bearer {address.api_key}"}
        async with httpx.AsyncClient(headers=headers, trust_env=False) as http:
            await http.post(f"{address.base_url}/chat/completions", json={"best_of": 2})
        return WorkflowOutput(reward=1.0, is_success=True)
"""


def test_debug_shows_what_was_refused_and_does_not_end_with_0(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    Path("swallowing.py").write_text(AGENT)
    settings = {
        "backbone": "debug",
        "task_reader": {"type": "random_dummy"},
        "rollout": {"agentscope_workflow": "swallowing->Swallowing", "num_repeat": 1},
        "debug": {"openai_base_url": "http://127.0.0.1:9/v1", "openai_model": "none"},
    }
    Path("job.yaml").write_text(yaml.safe_dump({"astuner": settings}))
    assert main(["--conf", "job.yaml"]) == 1
    shown = capfd.readouterr().err
    assert f"refused: {CHAT} 400 messages" in shown
    assert "the commonest refusal" in shown
    records = read_json_lines(Path("launcher_record/job/latest/episodes/step_000001.jsonl"))
    assert all(record["num_refused_calls"] == 1 for record in records)
