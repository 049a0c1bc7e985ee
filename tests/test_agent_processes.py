"""Agents in processes of their own: what they do there is what they do in the command's process."""

import asyncio
import json
import os
import signal
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import given, strategies

pytest.importorskip("agentscope")
pytest.importorskip("torch")

from astuner.backbone.local.agents.asked_engine import OpenCalls
from astuner.backbone.local.agents.frames import Frames, framed
from astuner.backbone.local.agents.messages import (
    POLICY,
    AskEngine,
    EngineAnswer,
    Enough,
    GiveUp,
    Sampled,
)
from astuner.backbone.local.loop_load import LoopLoad
from astuner.cli import main
from astuner.engine.protocol import Sampling
from astuner.errors import EngineError
from astuner.machine.heap import NEW_OBJECTS
from astuner.run_dir import read_json_lines
from astuner.trajectory.record import episode_from_record
from tests.child_runs import ChildRun, start_run
from tests.llm_server import says, serving
from tests.test_local_run import AGENTS, finished_run, taught_model, write_conf  # noqa: F401

pytestmark = pytest.mark.timeout(300)
"""The run of all ways starts three processes, which a busy machine takes long for."""

WAYS = ("own", "speak", "stop", "stream", "refuse", "play", "consult", "fail")
NUM_REPEAT = 4


def write_ways(folder: Path, model: Path, **rollout) -> None:
    """The YAML of a run with a task for each way, whose validation ends a process."""
    write_conf(folder, model)
    for name, ways in (("tasks", WAYS), ("validation", ("exit", "own"))):
        tasks = [{"main_query": way, "task_id": way} for way in ways]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(task) + "\n" for task in tasks))
    conf = yaml.safe_load((folder / "adder.yaml").read_text())
    settings = conf["astuner"]
    settings["rollout"] |= {
        "agentscope_workflow": f"{AGENTS}/many_ways.py->ManyWaysWorkflow",
        "num_workers": 2,
        "num_repeat": NUM_REPEAT,
        "trainable_targets": ["default_target_tag"],
        **rollout,
    }
    settings["task_judge"] = {"judge_protocol": None}
    settings["data"] |= {"train_batch_size": len(WAYS), "filter_overlong_prompts": False}
    files = settings["task_reader"]["jsonl_dataset_file"]
    files["validation"] = {"file_path": "validation.jsonl"}
    settings["trainer_common"] |= {"total_training_steps": 1, "save_freq": 1}
    (folder / "adder.yaml").write_text(yaml.safe_dump(conf))


@pytest.fixture(scope="module")
def ways(taught_model, tmp_path_factory) -> Path:  # noqa: F811
    """The folder of a run whose agents did everything in two processes."""
    folder = tmp_path_factory.mktemp("ways")
    write_ways(folder, taught_model)
    with serving(lambda _: says("yes")) as server:
        run = start_run(folder / "adder.yaml", f"llm.base_url={server.base_url}")
        assert run.code(seconds=250) == 0, run.said
    (folder / "num_consulted").write_text(str(len(server.requests)))
    return folder


@pytest.fixture(scope="module")
def run_dir(ways) -> Path:
    return (ways / "launcher_record/adder/latest").resolve()


def episodes_of(run_dir: Path, file: str, way: str):
    records = read_json_lines(run_dir / f"episodes/{file}.jsonl")
    return [episode_from_record(one) for one in records if one["task"]["main_query"] == way]


@pytest.fixture(scope="module")
def trained(run_dir):
    """The episodes of the step, by what they did."""
    return {way: episodes_of(run_dir, "step_000001", way) for way in WAYS}


def test_agents_run_in_as_many_processes_as_asked_for_and_not_in_the_commands(trained):
    done = [one for way in trained.values() for one in way if one.output]
    processes = {episode.metadata["pid"] for episode in done}
    assert len(done) == NUM_REPEAT * (len(WAYS) - 1)
    assert len(processes) == 2 and os.getpid() not in processes


def test_a_groups_attempts_share_a_process_while_it_has_room(trained):
    assert all(len({one.metadata["pid"] for one in trained[way]}) == 1 for way in WAYS[:-1])


def test_what_code_of_agents_registered_for_its_end_is_run(run_dir, ways):
    (last,) = episodes_of(run_dir, "validation_000001", "own")
    assert (ways / f"left_in_order_{last.metadata['pid']}").exists()


def test_what_a_workflow_returns_is_judged_as_it_is_recorded(trained):
    assert [one.metadata["held"] for one in trained["own"]] == ["an object of its own"] * NUM_REPEAT
    assert sorted(one.verdict.reward for one in trained["own"]) == [0, 1, 2, 3]


def test_cycles_are_looked_for_as_seldom_as_in_the_commands_process(trained):
    looks = [one.metadata["looks_for_cycles"] for one in trained["own"]]
    assert {one["after"] for one in looks} == {NEW_OBJECTS}
    assert all(one["passes_over"] for one in looks)


def test_a_failure_keeps_the_line_of_the_workflow_where_it_happened(trained):
    for episode in trained["fail"]:
        assert "the shop is closed" in episode.failure.message
        assert "many_ways.py" in episode.failure.traceback


def test_a_stop_string_ends_sampling_where_it_stands(trained):
    said = [(one.metadata["said"], one.calls[0].completion) for one in trained["stop"]]
    assert all("e" not in text and "5" not in text for text, _ in said)
    assert any(completion.finish_reason == "cut" for _, completion in said)


def test_a_stream_is_told_in_pieces_whose_sum_is_the_reply(trained):
    told = [(one.metadata["pieces"], one.calls[0].reply["content"]) for one in trained["stream"]]
    assert all("".join(pieces) == reply for pieces, reply in told)
    assert any(len(list(filter(None, pieces))) > 1 for pieces, _ in told)


def test_a_call_that_cannot_be_answered_is_refused_and_counted(trained):
    assert all("logit_bias" in one.metadata["refused"] for one in trained["refuse"])
    assert all(one.num_refused_calls > 0 for one in trained["refuse"])


def test_agents_that_are_not_trained_are_answered_by_the_frozen_weights(trained):
    for episode in trained["play"]:
        assert [call.is_trained for call in episode.calls] == [True, False]


def test_what_agents_ask_other_models_is_counted_for_the_run(trained, ways, run_dir):
    *_, line = read_json_lines(run_dir / "metrics.jsonl")
    assert all(one.metadata["consulted"] == "yes" for one in trained["consult"])
    assert line["llm/calls"] == int((ways / "num_consulted").read_text()) > 0


def test_what_agents_print_and_log_appears_where_the_command_says_and_logs_it(ways, run_dir):
    said, logged = (ways / "screen.log").read_text(), (run_dir / "run.log").read_text()
    for words in ("printed by an agent\n", "complained by an agent\n", "warned by an agent"):
        assert said.count(words) == NUM_REPEAT, said
    assert logged.count("WARNING astuner.shop warned by an agent") == NUM_REPEAT


def test_a_process_that_ends_costs_its_attempts_and_another_takes_its_place(run_dir, trained):
    (episode,) = episodes_of(run_dir, "validation_000000", "exit")
    assert episode.failure.kind == "WorkflowError"
    assert "its process of agents ended with exit code 3" in episode.failure.message
    (other,) = episodes_of(run_dir, "validation_000000", "own")
    assert other.output and len({one.metadata["pid"] for one in trained["own"]}) == 1
    assert "a process of agents ended with exit code 3" in (run_dir / "run.log").read_text()


def test_the_same_seed_gives_the_same_tokens_as_in_one_process(
    finished_run,  # noqa: F811
    taught_model,  # noqa: F811
    tmp_path,
):
    write_conf(tmp_path, taught_model)
    run = start_run(tmp_path / "adder.yaml", "rollout.num_workers=2", "rollout.settle_seconds=60")
    assert run.code() == 0, run.said
    for file in ("step_000001", "step_000002"):
        here, there = (
            sequences_of(one / f"episodes/{file}.jsonl") for one in (finished_run, run.run_dir)
        )
        assert len(here) == 2 * NUM_REPEAT and here == there


def sequences_of(file: Path):
    episodes = map(episode_from_record, read_json_lines(file))
    return {episode.episode_id: episode.sequences for episode in episodes}


def test_code_that_cancels_what_is_not_its_own_costs_attempts_and_not_the_run(
    taught_model,  # noqa: F811
    tmp_path,
):
    write_ways(tmp_path, taught_model, num_workers=1, num_repeat=2, max_failed_fraction=1.0)
    for name, ways in (("tasks", ["cancel", "own"]), ("validation", ["own"])):
        tasks = [{"main_query": way, "task_id": way} for way in ways]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(task) + "\n" for task in tasks))
    run = start_run(tmp_path / "adder.yaml", "data.train_batch_size=2")
    assert run.code() == 0, run.said
    (before,) = episodes_of(run.run_dir, "validation_000000", "own")
    (after,) = episodes_of(run.run_dir, "validation_000001", "own")
    assert before.output and after.output
    assert before.metadata["pid"] != after.metadata["pid"]


def test_a_blocked_agent_keeps_no_signal_from_saving_what_was_learned(
    taught_model,  # noqa: F811
    tmp_path,
):
    write_conf(tmp_path, taught_model)
    workflow = f"rollout.agentscope_workflow={AGENTS}/many_ways.py->BlockedWorkflow"
    settings = (
        "rollout.num_workers=1",
        "trainer_common.save_freq=99",
        "trainer_common.test_freq=99",
    )
    run = start_run(tmp_path / "adder.yaml", workflow, *settings)
    run.wait_until((tmp_path / "blocked").exists, "an agent was blocked")
    os.kill(run.pid, signal.SIGTERM)
    assert run.code() == 128 + signal.SIGTERM
    assert run.checkpoints() == ["step_1"]
    assert "ended within the run and said nothing" not in run.said


def test_a_fixed_port_of_the_gateway_is_refused_before_anything_is_loaded(
    taught_model,  # noqa: F811
    tmp_path,
    monkeypatch,
    capsys,
):
    write_ways(tmp_path, taught_model)
    monkeypatch.chdir(tmp_path)
    assert main(["--conf", "adder.yaml", "astuner.gateway.port=8123"]) == 2
    said = capsys.readouterr().err
    assert "gateway.port is 8123" in said and "rollout.num_workers" in said


def test_a_workflow_that_cannot_be_imported_there_ends_the_run_and_says_why(
    taught_model,  # noqa: F811
    tmp_path,
    monkeypatch,
    capsys,
):
    write_ways(tmp_path, taught_model, num_workers=1)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NOT_IN_PROCESSES", "1")
    assert main(["--conf", "adder.yaml"]) == 2
    assert "works in the command's process only" in capsys.readouterr().err


@pytest.fixture
def endless(taught_model, tmp_path) -> ChildRun:  # noqa: F811
    write_conf(tmp_path, taught_model)
    total = ("total_training_steps=9999", "total_epochs=9999", "save_freq=9999", "test_freq=9999")
    settings = [f"trainer_common.{one}" for one in total]
    run = start_run(tmp_path / "adder.yaml", "rollout.num_workers=1", *settings)
    run.wait_until_said("step 2/")
    return run


def children_of(process_id: int) -> list[int]:
    found = Path(f"/proc/{process_id}/task/{process_id}/children").read_text()
    return [int(one) for one in found.split()]


def is_alive(process_id: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_process_of_agents_outlives_the_command(endless, number):
    children = [
        child
        for child in children_of(endless.pid)
        if b"agents.process" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]
    assert len(children) == 1
    if number == signal.SIGINT:  # a terminal tells the whole group
        for child in children:
            os.kill(child, number)
    os.kill(endless.pid, number)
    assert endless.code() == 128 + number
    deadline = time.monotonic() + 30
    while any(map(is_alive, children)):
        assert time.monotonic() < deadline, children
        time.sleep(0.05)
    assert endless.checkpoints() != [] or number == signal.SIGKILL


@given(
    messages=strategies.lists(strategies.binary(max_size=60)),
    cuts=strategies.lists(strategies.integers(min_value=1, max_value=40)),
)
def test_messages_arrive_whole_and_in_order_however_the_bytes_are_cut(messages, cuts):
    received: list[bytes] = []
    frames = Frames(received.append)
    left = b"".join(map(framed, messages))
    for size in cuts:
        frames.data_received(left[:size])
        left = left[size:]
    frames.data_received(left)
    assert received == messages


def test_a_call_that_nobody_waits_for_is_given_up_and_its_late_answer_dropped():
    sampling = Sampling(temperature=1, top_p=1, top_k=-1, max_new_tokens=9, stop_ids=frozenset())

    async def ask() -> list[object]:
        said: list[object] = []
        calls = OpenCalls(said.append)
        given = {"caller": "step1-0-0", "index": 0, "observe": lambda ids: len(ids) > 1}
        asking = [
            asyncio.create_task(calls.ask(POLICY, [1, 2], sampling, **given)) for _ in range(2)
        ]
        await asyncio.sleep(0)
        for ids in ((3,), (3, 4), (3, 4, 5)):
            calls.take(Sampled(call=1, ids=ids))
        asking[0].cancel()
        await asyncio.wait(asking[:1])
        for call in (0, 1):
            calls.take(EngineAnswer(call=call, completion=EngineError(f"answer {call}")))
        with pytest.raises(EngineError, match="answer 1"):
            await asking[1]
        return said

    *asked, enough, given_up = asyncio.run(ask())
    assert [(type(one), one.call) for one in asked] == [(AskEngine, 0), (AskEngine, 1)]
    assert (enough, given_up) == (Enough(1), GiveUp(0))


def test_what_is_sent_before_there_is_a_connection_arrives_when_there_is_one():
    async def talk() -> list[str]:
        loop, heard = asyncio.get_running_loop(), []
        said, done = Frames(heard.append), loop.create_future()
        listening = Frames(lambda one: done.set_result(one) if one == "last" else heard.append(one))
        server = await loop.create_server(lambda: listening, "127.0.0.1", 0)
        said.send("first")
        address = server.sockets[0].getsockname()
        await loop.create_connection(lambda: said, *address)
        said.send("last")
        await done
        said.close()
        server.close()
        return heard

    assert asyncio.run(talk()) == ["first"]


def test_a_run_on_a_gpu_says_once_when_its_agents_code_is_what_takes_the_time():
    said: list[str] = []
    load = LoopLoad(said.append, is_of_interest=True)
    load.note(busy_seconds=9.0, seconds=10.0)  # the first rollout imports what agents use
    load.note(busy_seconds=1.0, seconds=10.0)
    load.note(busy_seconds=0.5, seconds=0.6)
    assert said == []
    load.note(busy_seconds=6.0, seconds=10.0)
    load.note(busy_seconds=6.0, seconds=10.0)
    (only,) = said
    assert "60% of the rollout's 10.0 s" in only and "astuner.rollout.num_workers=" in only
