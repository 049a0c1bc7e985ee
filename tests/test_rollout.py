"""Episodes, their failures as data, groups and the pool."""

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
import threading
import time
from collections import UserList
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest

from astuner.errors import BackboneError, LoopBlocked, Quit
from astuner.rollout.pool import commonest_failure
from astuner.rollout.watchdog import TICK_SIGNAL, loop_watchdog
from astuner.run_dir import json_line
from astuner.trajectory.record import episode_from_record, episode_to_record
from astuner.types import Task, WorkflowOutput, WorkflowTask
from astuner.workflow import Workflow
from tests.chats import ADD_TOOL, make_chat
from tests.episodes import make_rules, run_episode
from tests.fakes import ScriptedEngine

torch = pytest.importorskip("torch")

TASK = Task(main_query="What is 2 + 3?", task_id="t1", metadata={"answer": "5"})


class AskOnce(Workflow):
    name: str = "ask_once"

    async def execute(self, workflow_task, model_tuner):
        reply = await model_tuner._chat.complete(request(workflow_task))
        return WorkflowOutput(metadata={"final_answer": reply.text})


def request(workflow_task):
    from astuner.inference.request import ChatRequest

    return ChatRequest(messages=[{"role": "user", "content": workflow_task.task.main_query}])


class ExactJudge:
    def compute_reward(self, workflow_task, workflow_output):
        is_right = workflow_output.metadata["final_answer"] == workflow_task.task.metadata["answer"]
        return (1.0 if is_right else 0.0), is_right


def settings(workflow=AskOnce, judge=None, engine=None, **changes):
    engine = engine or ScriptedEngine(lambda prompt: "5")

    def chat_of(recorder, _task):
        chat = make_chat(engine, find_madness=changes.get("find_madness", lambda reply: None))
        chat.recorder = recorder
        return chat

    return make_rules(
        make_workflow=workflow,
        make_chat=chat_of,
        judge=judge or ExactJudge(),
        config=SimpleNamespace(),
        timeout_seconds=changes.get("timeout_seconds", 5.0),
        judge_timeout_seconds=changes.get("judge_timeout_seconds", 5.0),
        madness_reward=-1.0,
    )


def attempt(**changes):
    fields = {"task": TASK, "episode_id": "e", "step": 0, "attempt": 0, "is_validation": False}
    return WorkflowTask(**{**fields, **changes})


def run(workflow=AskOnce, **changes):
    return asyncio.run(run_episode(attempt(), settings(workflow, **changes)))


def workflow_that(body):
    class Custom(Workflow):
        name: str = "custom"

        async def execute(self, workflow_task, model_tuner):
            return await body(workflow_task, model_tuner)

    return Custom


def test_the_judge_decides_when_the_workflow_gives_no_reward():
    episode = run()
    assert episode.verdict.reward == 1.0 and episode.verdict.source == "judge"
    assert len(episode.sequences) == 1 and episode.sequences[0].num_trained == 2


def test_a_reward_of_the_workflow_wins_and_the_judge_is_not_called():
    class NoJudge:
        def compute_reward(self, *_):
            raise AssertionError("called")

    async def body(task, tuner):
        return WorkflowOutput(reward=0.25, is_success=False)

    episode = run(workflow_that(body), judge=NoJudge())
    assert (episode.verdict.reward, episode.verdict.source) == (0.25, "workflow")


async def _raises(task, tuner):
    raise KeyError("missing")


async def _none(task, tuner):
    return None


async def _no_reward(task, tuner):
    return WorkflowOutput(metadata={})


async def _nan(task, tuner):
    return WorkflowOutput(reward=float("nan"))


async def _hangs(task, tuner):
    await asyncio.sleep(60)


async def _swallows_cancellation(task, tuner):
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        return WorkflowOutput(reward=1.0)


async def _exits(task, tuner):
    sys.exit(3)


async def _exits_quietly(task, tuner):
    exit()


async def _exits_in_a_tool_beside_others(task, tuner):
    await asyncio.gather(_exits(task, tuner), asyncio.sleep(0), return_exceptions=True)
    return WorkflowOutput(reward=0.0)


async def _exits_in_a_task_group(task, tuner):
    async with asyncio.TaskGroup() as group:
        group.create_task(_exits(task, tuner))
    return WorkflowOutput(reward=0.0)


async def _exits_in_a_task_of_a_task(task, tuner):
    with contextlib.suppress(Exception):
        await asyncio.ensure_future(_exits_in_a_tool_beside_others(task, tuner))
    return WorkflowOutput(reward=0.0)


async def _exits_in_a_thread(task, tuner):
    with contextlib.suppress(Exception):
        await asyncio.to_thread(sys.exit, 3)
    return WorkflowOutput(reward=0.0)


async def _exits_in_a_loop_of_a_thread(task, tuner):
    await asyncio.to_thread(lambda: asyncio.run(_exits(task, tuner)))


async def _raises_keyboard_interrupt(task, tuner):
    raise KeyboardInterrupt


class _Outcome(BaseException):
    """As of pytest.fail."""


async def _raises_no_exception(task, tuner):
    raise _Outcome("not an Exception")


async def _cancels_itself(task, tuner):
    raise asyncio.CancelledError


async def _raises_generator_exit(task, tuner):
    raise GeneratorExit


async def _raises_generator_exit_in_a_thread(task, tuner):
    def leave():
        raise GeneratorExit

    await asyncio.to_thread(leave)


class _Untold(Exception):
    def __str__(self):
        raise RuntimeError("the connection that it would tell of is closed")


class _UntoldByExit(Exception):
    def __str__(self):
        exit()


class _UntoldByInterrupt(Exception):
    def __str__(self):
        raise KeyboardInterrupt


class _UntoldByNumber(Exception):
    def __str__(self):
        return 404


def _raising(error):
    async def body(task, tuner):
        raise error

    return body


class _Reprless:
    def __repr__(self):
        raise RuntimeError("gone")


async def _exits_with_what_has_no_repr(task, tuner):
    sys.exit(_Reprless())


class _Proxy:
    """Of an object that is not bound, as web frameworks have them."""

    @property
    def __class__(self):
        raise RuntimeError("working outside of a request")


async def _proxy(task, tuner):
    return _Proxy()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (_raises, "workflow 'custom' raised: KeyError: 'missing'"),
        (_exits, "called sys.exit(3)"),
        (_exits_quietly, "called sys.exit(None)"),
        (_exits_in_a_tool_beside_others, "called sys.exit(3)"),
        (_exits_in_a_task_of_a_task, "called sys.exit(3)"),
        (_exits_in_a_thread, "called sys.exit(3)"),
        (_exits_in_a_loop_of_a_thread, "called sys.exit(3)"),
        (_raises_keyboard_interrupt, "raised KeyboardInterrupt"),
        (_raises_no_exception, "_Outcome: not an Exception"),
        (_cancels_itself, "user code raised asyncio.CancelledError"),
        (_raises_generator_exit, "user code raised GeneratorExit"),
        (_raises_generator_exit_in_a_thread, "user code raised GeneratorExit"),
        (_raising(_Untold()), "_Untold: (its text cannot be made: RuntimeError)"),
        (_raising(_UntoldByExit()), "_UntoldByExit: (its text cannot be made: SystemExit)"),
        (_raising(_UntoldByInterrupt()), "(its text cannot be made: KeyboardInterrupt)"),
        (_raising(_UntoldByNumber()), "_UntoldByNumber: (its text cannot be made: TypeError)"),
        (_exits_with_what_has_no_repr, "called sys.exit((its text cannot be made: RuntimeError))"),
        (_none, "returned NoneType; execute must return a WorkflowOutput"),
        (_proxy, "cannot be read: RuntimeError: working outside of a request"),
        (_nan, "the workflow's reward is nan; expected a finite number"),
        (_hangs, "did not finish in 0.1 s"),
        (_swallows_cancellation, "did not finish in 0.1 s"),
    ],
)
def test_a_broken_workflow_is_a_failed_episode_never_a_reward(body, message):
    episode = run(workflow_that(body), timeout_seconds=0.1)
    assert episode.verdict is None
    assert episode.failure.kind == "WorkflowError" and message in episode.failure.message


class _Held:
    """A scalar as other array libraries have them: nothing but `item`."""

    def __init__(self, value):
        self._value = value

    def item(self):
        return self._value


NUMBERS = [
    np.float32(0.5),
    np.float16(0.5),
    np.array(0.5),
    np.array([0.5]),
    np.array([[0.5]], dtype=object),
    torch.tensor(0.5),
    torch.tensor([[0.5]], dtype=torch.bfloat16),
    torch.tensor(0.5, requires_grad=True),
    _Held(0.5),
    Fraction(1, 2),
    Decimal("0.5"),
]


class _Gives:
    """A judge that returns the same for everything."""

    def __init__(self, reward, is_success=True):
        self._pair = (reward, is_success)

    def compute_reward(self, workflow_task, workflow_output):
        return self._pair


class _GivesByComparing(_Gives):
    def compute_rewards(self, workflow_tasks, workflow_outputs):
        return [self._pair for _ in workflow_outputs]


def _returning(**fields):
    async def body(workflow_task, tuner):
        tuner.as_agentscope_model("ann", "seer")
        return WorkflowOutput(**fields)

    return workflow_that(body)


def _setting(**fields):
    """Assigned after it was made, where nothing has checked them."""

    async def body(workflow_task, tuner):
        output = WorkflowOutput(reward=1.0)
        for name, value in fields.items():
            setattr(output, name, value)
        return output

    return workflow_that(body)


@pytest.mark.parametrize("number", NUMBERS, ids=repr)
def test_any_kind_of_number_is_a_reward(number):
    for episode in (
        run(workflow_that(_no_reward), judge=_Gives(number)),
        run(workflow_that(_no_reward), judge=_GivesByComparing(number)),
        run(_returning(), judge=_Gives({"seer": number})),
        run(_returning(reward=number)),
        run(_returning(reward={"seer": number})),
        run(_setting(reward=number)),
    ):
        assert episode.verdict.reward == 0.5 and type(episode.verdict.reward) is float


@pytest.mark.parametrize(
    "value",
    [
        np.array([0.5, 1]),
        np.array([(0.5, 1)], dtype="f4,f4"),
        torch.ones(2, 1),
        np.str_("0.5"),
        "0.5",
        None,
        [0.5],
        Decimal("NaN"),
        np.float64("inf"),
        np.array([np.nan]),
        np.ma.masked,
        np.ma.array([0.5], mask=[True]),
        np.ma.array(0.5, mask=True),
        1j,
        10**400,
        -(10**5000),
        1e308,
    ],
    ids=type,
)
def test_what_is_no_finite_number_is_no_reward(value):
    failure = run(workflow_that(_no_reward), judge=_Gives(value)).failure
    assert failure.kind == "JudgeError"
    assert "expected a finite number" in failure.message or "cannot be read" in failure.message
    by_role = run(_returning(), judge=_Gives({"seer": value})).failure
    assert by_role.kind == "JudgeError"
    if value is not None and not isinstance(value, str):
        assert run(_setting(reward=value)).failure.kind == "WorkflowError"


@pytest.mark.parametrize(
    ("flag", "is_success"),
    [
        (np.bool_(False), False),
        (torch.tensor([True]), True),
        (np.array([0]), False),
        (_Held(True), True),
        (0.0, False),
        (2, True),
        ("False", False),
        ("yes", True),
        (None, True),
        ([], False),
    ],
    ids=repr,
)
def test_a_success_flag_of_any_kind_is_true_or_false(flag, is_success):
    found = run(workflow_that(_no_reward), judge=_Gives(0.5, flag)).verdict.is_success
    assert found is is_success


@pytest.mark.parametrize("flag", [np.bool_(False), torch.tensor([False]), _Held(False), 0, "no"])
def test_a_success_flag_that_a_workflow_sets_is_true_or_false(flag):
    for episode in run(_returning(reward=1.0, is_success=flag)), run(_setting(is_success=flag)):
        assert episode.verdict.is_success is False


def test_a_pair_may_be_a_list_and_a_masked_array_may_hold_a_number():
    class Listing:
        def compute_reward(self, workflow_task, workflow_output):
            return [np.ma.array([0.5], mask=[False]), False]

    verdict = run(workflow_that(_no_reward), judge=Listing()).verdict
    assert (verdict.reward, verdict.is_success) == (0.5, False)


class _NoTruth:
    def __bool__(self):
        raise ValueError("neither")


@pytest.mark.parametrize(
    "flag",
    [
        np.array([True, False]),
        torch.tensor([1, 0]),
        np.ma.masked,
        "perhaps",
        float("nan"),
        _NoTruth(),
    ],
    ids=repr,
)
def test_a_success_flag_that_is_neither_is_a_failed_episode_with_a_record(flag):
    assert run(workflow_that(_no_reward), judge=_Gives(0.5, flag)).failure.kind == "JudgeError"
    episode = run(_setting(is_success=flag))
    assert episode.failure.kind == "WorkflowError"
    json_line(episode_to_record(episode), where="test")


_CYCLE = {}
_CYCLE["again"] = _CYCLE


class _NoText:
    def __repr__(self):
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    "value",
    [2**100000, _CYCLE, _NoText(), object(), 1e308, np.array([1, 2]), b"\xff", {1: {2}}],
    ids=type,
)
@pytest.mark.parametrize(
    "door", ["metadata", "row", "message", "arguments", "result", "tools", "agent", "error", "note"]
)
def test_one_odd_value_is_one_episode_with_a_record(value, door):
    """Whether it failed or not: nothing leaves it, and it can be written down and shown."""
    question = {"role": "user", "content": "hi"}

    def calling(arguments, result):
        function = {"name": "add", "arguments": arguments}
        called = {"id": "1", "type": "function", "function": function}
        return [
            question,
            {"role": "assistant", "content": "", "tool_calls": [called]},
            {"role": "tool", "tool_call_id": "1", "content": result},
        ]

    async def body(workflow_task, tuner):
        metadata = {}
        match door:
            case "metadata":
                metadata = {"odd": [value]}
            case "row":
                workflow_task.task.metadata["odd"] = value
            case "message":
                await tuner([{"role": "user", "content": value}])
            case "arguments":
                await tuner(calling({"a": value}, "5"))
            case "result":
                await tuner(calling({"a": 5}, value))
            case "tools":
                await tuner([question], tools=[{**ADD_TOOL, "odd": value}])
            case "agent":
                await tuner.as_agentscope_model(value, "seer")([question])
            case "error":
                raise ValueError(value)
        return WorkflowOutput(metadata=metadata)

    class Notes:
        def compute_reward(self, workflow_task, workflow_output):
            if door == "note":
                workflow_output.metadata["odd"] = workflow_task.task.metadata["odd"] = value
            return 0.5, True

    episode = run(workflow_that(body), judge=Notes())
    line = json_line(episode_to_record(episode), where="test")
    assert episode_from_record(json.loads(line)).verdict == episode.verdict


def test_metadata_that_is_none_is_a_failed_episode():
    failure = run(_setting(metadata=None)).failure
    assert failure.kind == "WorkflowError" and "metadata" in failure.message


def test_a_judge_that_compares_may_return_a_list_that_fails():
    class Lazy(UserList):
        def __len__(self):
            return 1

        def __iter__(self):
            raise RuntimeError("not there yet")

    class Compares:
        def compute_rewards(self, workflow_tasks, workflow_outputs):
            return Lazy()

    failure = run(workflow_that(_no_reward), judge=Compares()).failure
    assert failure.kind == "JudgeError" and "not there yet" in failure.message


def test_a_judge_may_change_its_row_and_no_other_sees_it():
    class Pops:
        def compute_reward(self, workflow_task, workflow_output):
            return float(workflow_task.task.metadata.pop("answer")), True

    task = Task(task_id="7", main_query="?", metadata={"answer": 5})
    rules = settings(workflow_that(_no_reward), Pops())
    episodes = [asyncio.run(run_episode(attempt(task=task), rules)) for _ in range(2)]
    assert [episode.verdict.reward for episode in episodes] == [5.0, 5.0]
    assert task.metadata == {"answer": 5}


def test_each_attempt_has_the_task_as_it_was_read_whatever_others_did_to_theirs():
    seen = []

    class SeesTheAnswer:
        def compute_reward(self, workflow_task, workflow_output):
            return float(workflow_task.task.metadata["answer"]), True

    async def body(workflow_task, tuner):
        row = workflow_task.task.metadata
        seen.append((row.pop("answer"), list(row["tries"])))
        row["tries"].append(object())
        return WorkflowOutput(metadata={})

    task = Task(task_id="7", main_query="?", metadata={"answer": 5, "tries": []})
    plan = attempt(task=task)
    rules = settings(workflow_that(body), SeesTheAnswer())
    episodes = [asyncio.run(run_episode(plan, rules)) for _ in range(2)]
    assert seen == [(5, []), (5, [])]
    assert [episode.verdict.reward for episode in episodes] == [5.0, 5.0]
    assert episode_to_record(episodes[1])["task"]["metadata"] == {"answer": 5, "tries": []}


def test_an_exit_in_a_task_group_fails_the_episode_by_its_traceback():
    async def body(task, tuner):
        async with asyncio.TaskGroup() as group:
            group.create_task(_exits(task, tuner))
        return WorkflowOutput(reward=0.0)

    assert "called sys.exit(3)" in run(workflow_that(body)).failure.traceback


def test_a_workflow_may_handle_its_own_exit():
    async def body(task, tuner):
        with contextlib.suppress(SystemExit):
            exit()
        return WorkflowOutput(reward=1.0)

    assert run(workflow_that(body)).verdict.reward == 1.0


def test_the_second_ctrl_c_passes_every_boundary():
    async def quit_at_once():
        raise Quit(signal.SIGINT)

    async def body(task, tuner):
        await asyncio.gather(quit_at_once())

    with pytest.raises(Quit):
        run(workflow_that(body))


def test_tasks_of_user_code_are_named_and_cancelled_like_others(recwarn):
    async def body(task, tuner):
        tool = asyncio.create_task(asyncio.sleep(60), name="tool")
        tool.cancel()
        assert "sleep" in repr(tool) and tool.get_name() == "tool"
        with contextlib.suppress(asyncio.CancelledError):
            await tool
        return WorkflowOutput(reward=float(tool.cancelled()))

    assert run(workflow_that(body)).verdict.reward == 1.0
    assert not recwarn.list


def test_an_execute_that_is_not_async_may_block_in_a_thread_of_its_own():
    together = threading.Barrier(4, timeout=60)

    class Plain(Workflow):
        def execute(self, workflow_task, model_tuner):
            together.wait()  # which four at once can only pass in threads
            return WorkflowOutput(reward=float(workflow_task.attempt))

    groups, _ = roll_out(pool(workflow=Plain), num_tasks=1)
    assert [episode.verdict.reward for episode in groups[0].episodes] == [0.0, 1.0, 2.0, 3.0]


def test_an_execute_that_is_not_async_fails_like_one_that_is():
    class Exits(Workflow):
        def execute(self, workflow_task, model_tuner):
            sys.exit(4)

    assert "called sys.exit(4)" in run(Exits).failure.message

    class Hangs(Workflow):
        def execute(self, workflow_task, model_tuner):
            time.sleep(1)  # asyncio.run waits for it

    assert "did not finish in 0.1 s" in run(Hangs, timeout_seconds=0.1).failure.message


def test_a_workflow_that_blocks_and_swallows_errors_is_stopped_too():
    async def body(task, tuner):
        while True:
            with contextlib.suppress(Exception):
                time.sleep(30)

    groups, _ = roll_out(
        pool(workflow=workflow_that(body), timeout_seconds=0.8, max_failed_fraction=1.0),
        num_tasks=1,
        num_repeat=1,
    )
    assert "blocked all other episodes" in groups[0].episodes[0].failure.message


def test_the_traceback_of_a_failed_workflow_names_its_line():
    episode = run(workflow_that(_raises))
    assert 'raise KeyError("missing")' in episode.failure.traceback


class Judge:
    def __init__(self, result):
        self._result = result

    def compute_reward(self, *_):
        return self._result() if callable(self._result) else self._result


class AsyncJudge(Judge):
    async def compute_reward(self, *_):
        return self._result()


class _NoBool:
    def __bool__(self):
        raise ValueError("ambiguous")


def _ends_by_ctrl_c():
    raise KeyboardInterrupt


def _raises_no_exception_at_once():
    raise _Outcome("not an Exception")


def _sleep_long():
    time.sleep(0.5)
    return 1.0, True


@pytest.mark.parametrize(
    ("judge", "message"),
    [
        (Judge(lambda: 1 / 0), "judge Judge raised: ZeroDivisionError"),
        (Judge(0.5), "returned 0.5; expected (reward, is_success)"),
        (Judge((float("inf"), True)), "the reward is inf"),
        (Judge((10**400, True)), "the reward is 1000"),
        (Judge((1.0, _NoBool())), "returned cannot be read: ValueError: ambiguous"),
        (Judge(exit), "called sys.exit(None)"),
        (Judge(_ends_by_ctrl_c), "raised KeyboardInterrupt"),
        (Judge(_raises_no_exception_at_once), "_Outcome: not an Exception"),
        (Judge(lambda: next(iter(()))), "StopIteration"),
        (AsyncJudge(exit), "judge AsyncJudge raised: called sys.exit(None)"),
        (Judge(_sleep_long), "did not answer in 0.1 s"),
    ],
)
def test_a_broken_judge_is_a_failed_episode_never_a_reward(judge, message):
    episode = run(judge=judge, judge_timeout_seconds=0.1)
    assert episode.verdict is None
    assert episode.failure.kind == "JudgeError" and message in episode.failure.message
    assert episode.num_sampled_tokens == 2


def test_madness_replaces_the_reward():
    episode = run(find_madness=lambda reply: "nonsense: repeats")
    assert (episode.verdict.reward, episode.verdict.source) == (-1.0, "madness")


def test_a_workflow_that_outlives_its_deadline_gets_no_further_answers():
    refused = []

    async def body(task, tuner):
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            try:
                await tuner._chat.complete(request(task))
            except Exception as error:
                refused.append(str(error))
            raise

    run(workflow_that(body), timeout_seconds=0.05)
    assert "its time is over" in refused[0]


def pool(max_parallel=4, max_failed_fraction=0.5, **changes):
    return settings(**changes).pool(
        max_parallel=max_parallel, max_failed_fraction=max_failed_fraction
    )


def roll_out(pool, num_tasks=3, num_repeat=4):
    tasks = [TASK.model_copy(update={"task_id": f"t{i}"}) for i in range(num_tasks)]
    seen = []

    async def go():
        return await pool.run(
            tasks, num_repeat=num_repeat, step=7, is_validation=False, on_episode=seen.append
        )

    return asyncio.run(go()), seen


def test_groups_come_in_the_order_of_tasks_with_all_their_attempts():
    groups, seen = roll_out(pool())
    assert [group.task.task_id for group in groups] == ["t0", "t1", "t2"]
    assert [episode.attempt for episode in groups[1].episodes] == [0, 1, 2, 3]
    assert len({episode.episode_id for episode in seen}) == 12


def test_no_more_episodes_run_at_once_than_allowed():
    engine = ScriptedEngine(lambda prompt: "5", delay_seconds=0.01)
    roll_out(pool(engine=engine, max_parallel=4))
    assert engine.most_running == 4


def test_failed_episodes_leave_their_group_and_are_counted():
    engine = ScriptedEngine(lambda prompt: "5")

    async def body(task, tuner):
        if task.attempt == 0:
            raise RuntimeError("first one breaks")
        return WorkflowOutput(reward=1.0)

    groups, _ = roll_out(pool(workflow=workflow_that(body), engine=engine))
    assert [len(group.judged) for group in groups] == [3, 3, 3]
    assert all(len(group.episodes) == 4 for group in groups)


def test_too_many_failures_stop_the_run_with_the_commonest_reason():
    async def body(task, tuner):
        raise RuntimeError("no such tool")

    with pytest.raises(BackboneError, match="no such tool") as caught:
        roll_out(pool(workflow=workflow_that(body)))
    assert "7 of 12 episodes failed" in str(caught.value)


def test_a_workflow_that_blocks_the_event_loop_is_interrupted_at_its_line():
    async def body(task, tuner):
        if task.attempt == 0:
            time.sleep(30)
        return WorkflowOutput(reward=1.0)

    groups, _ = roll_out(
        pool(workflow=workflow_that(body), timeout_seconds=0.3), num_tasks=1, num_repeat=4
    )
    failure = groups[0].episodes[0].failure
    assert "blocked all other episodes" in failure.message and "test_rollout.py" in failure.message
    assert len(groups[0].judged) == 3


def test_an_alarm_that_comes_late_such_as_of_a_stopped_process_blames_nobody():
    async def body(task, tuner):
        os.kill(os.getpid(), TICK_SIGNAL)
        return WorkflowOutput(reward=1.0)

    groups, _ = roll_out(
        pool(workflow=workflow_that(body), timeout_seconds=20), num_tasks=1, num_repeat=2
    )
    assert len(groups[0].judged) == 2


@pytest.mark.parametrize("goes_on", ["later", "at once"])
def test_user_code_that_clears_the_alarm_does_not_free_others_to_block(goes_on):
    async def body(task, tuner):
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        signal.alarm(0)
        if goes_on == "later":
            await asyncio.sleep(0.2)
        time.sleep(30)

    groups, _ = roll_out(
        pool(workflow=workflow_that(body), timeout_seconds=0.8, max_failed_fraction=1.0),
        num_tasks=1,
        num_repeat=1,
    )
    assert "blocked all other episodes" in groups[0].episodes[0].failure.message


def test_an_alarm_that_user_code_sets_comes_when_it_is_due():
    """As of packages that bound a call by it; it stays also where the code awaits meanwhile."""
    came = threading.Event()

    async def body(task, tuner):
        previous = signal.signal(signal.SIGALRM, lambda *_: came.set())
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        await asyncio.to_thread(came.wait, 20)
        signal.signal(signal.SIGALRM, previous)
        return WorkflowOutput(reward=1.0)

    roll_out(pool(workflow=workflow_that(body), timeout_seconds=80), num_tasks=1, num_repeat=1)
    assert came.is_set()


def test_code_that_blocks_a_loop_outside_of_the_main_thread_is_interrupted_too():
    async def body(task, tuner):
        while True:
            time.sleep(0.01)

    def work():
        return roll_out(
            pool(workflow=workflow_that(body), timeout_seconds=0.8, max_failed_fraction=1.0),
            num_tasks=1,
            num_repeat=1,
        )

    with ThreadPoolExecutor() as threads:
        groups, _ = threads.submit(work).result(timeout=60)
    message = groups[0].episodes[0].failure.message
    assert "blocked all other episodes" in message and "test_rollout.py" in message


def test_code_that_cannot_be_interrupted_is_told_of_by_its_line():
    """Outside of the main thread no signal ends a system call."""
    told = []
    released = threading.Event()

    def note(error):
        told.append(error)
        released.set()

    async def blocks():
        with loop_watchdog(0.4, on_stuck=note), contextlib.suppress(TimeoutError, LoopBlocked):
            await asyncio.sleep(0)
            released.wait(60)

    with ThreadPoolExecutor() as threads:
        threads.submit(asyncio.run, blocks()).result(timeout=60)
    assert "test_rollout.py" in str(told[0]) and "could not be interrupted" in str(told[0])


@pytest.mark.parametrize("is_main", [True, False])
def test_each_of_several_that_block_in_one_turn_of_the_loop_is_interrupted_alone(is_main):
    told = []

    async def spins():
        try:
            while True:
                time.sleep(0.01)
        except (TimeoutError, LoopBlocked) as error:
            return error

    async def go():
        with loop_watchdog(0.4, on_stuck=told.append):
            return await asyncio.gather(*(spins() for _ in range(4)))

    if is_main:
        errors = asyncio.run(go())
    else:
        with ThreadPoolExecutor() as threads:
            errors = threads.submit(asyncio.run, go()).result(timeout=60)
    assert not told
    assert all(isinstance(error, TimeoutError) for error in errors)
    assert all("for 0.4 s" in str(error) for error in errors)


def test_cancelling_the_pool_cancels_its_model_calls():
    engine = ScriptedEngine(lambda prompt: "5", delay_seconds=60)

    async def go():
        work = asyncio.ensure_future(
            pool(engine=engine).run(
                [TASK], num_repeat=2, step=0, is_validation=False, on_episode=lambda e: None
            )
        )
        await asyncio.sleep(0.05)
        work.cancel()
        await asyncio.wait({work}, timeout=60)
        return work.cancelled()

    assert asyncio.run(go())
    assert engine.cancelled == 2


def test_what_an_agent_left_running_says_beside_the_judge_is_not_recorded():
    engine = ScriptedEngine(["5", "late words"])
    judging, late = asyncio.Event(), []

    async def ask_late(workflow_task, model_tuner):
        await judging.wait()
        await model_tuner._chat.complete(request(workflow_task))

    async def body(workflow_task, model_tuner):
        reply = await model_tuner._chat.complete(request(workflow_task))
        late.append(asyncio.create_task(ask_late(workflow_task, model_tuner)))
        return WorkflowOutput(metadata={"final_answer": reply.text})

    class SlowJudge(ExactJudge):
        async def compute_reward(self, workflow_task, workflow_output):
            judging.set()
            await asyncio.wait(late)
            return 1.0, True

    episode = run(workflow_that(body), judge=SlowJudge(), engine=engine)
    assert len(episode.calls) == 1 and episode.verdict.reward == 1.0
    assert "the episode has ended" in str(late[0].exception())


def test_an_import_may_block_longer_since_half_of_a_package_helps_nobody(tmp_path, monkeypatch):
    (tmp_path / "slowly_imported.py").write_text("import time\ntime.sleep(1.2)\nDONE = True\n")
    monkeypatch.syspath_prepend(tmp_path)

    async def body():
        with loop_watchdog(0.4):
            return __import__("slowly_imported").DONE

    assert asyncio.run(body())


def test_reasons_that_differ_in_numbers_only_are_counted_together():
    async def body(task, tuner):
        if task.attempt == 0:
            raise KeyError("gone")
        raise RuntimeError(f"no answer in {task.attempt} tries and {1 + task.attempt / 4} s")

    groups, _ = roll_out(
        pool(workflow=workflow_that(body), max_failed_fraction=1.0), num_tasks=1, num_repeat=3
    )
    told = commonest_failure(groups[0].episodes)
    assert re.search(r"^the commonest reason \(2 times\): .*no answer in [12] tries", told or "")
