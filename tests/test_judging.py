"""From attempts to judged episodes: alone, compared, and once more from a run directory."""

import ast
import asyncio
import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

import astuner.rollout.judging as judging_module
from astuner.calling import uncounted
from astuner.errors import BackboneError, ConfigError, JudgeError
from astuner.rollout.episode import run_attempt
from astuner.rollout.judging import Judging
from astuner.task_judge.base_judge import BaseJudge, GroupJudge
from astuner.trajectory.record import attempt_from_record, episode_from_record, episode_to_record
from astuner.types import Judgement, WorkflowOutput
from tests.test_rollout import TASK, attempt, pool, roll_out, run, settings, workflow_that


class ByLength:
    """Ranks by the length of the answers; remembers what it was asked."""

    def __init__(self):
        self.asked = []

    def compute_rewards(self, workflow_tasks, workflow_outputs):
        answers = [output.metadata["answer"] for output in workflow_outputs]
        self.asked.append([task.attempt for task in workflow_tasks])
        return [(float(len(answer)), len(answer) > 2) for answer in answers]


async def answer_by_attempt(task, tuner):
    return WorkflowOutput(metadata={"answer": "x" * (task.attempt + 1)})


def test_a_judge_that_compares_is_asked_once_for_a_group_when_its_last_attempt_has_ended():
    judge = ByLength()
    groups, seen = roll_out(pool(workflow=workflow_that(answer_by_attempt), judge=judge))
    assert [sorted(asked) for asked in judge.asked] == [[0, 1, 2, 3]] * 3
    for group in groups:
        assert [e.verdict.reward for e in group.episodes] == [1.0, 2.0, 3.0, 4.0]
        assert [e.verdict.is_success for e in group.episodes] == [False, False, True, True]
        assert {e.verdict.source for e in group.episodes} == {"judge"}
    assert len(seen) == 12


def test_a_judge_that_compares_may_be_asynchronous():
    class Async(ByLength):
        async def compute_rewards(self, workflow_tasks, workflow_outputs):
            await asyncio.sleep(0)
            return super().compute_rewards(workflow_tasks, workflow_outputs)

    groups, _ = roll_out(pool(workflow=workflow_that(answer_by_attempt), judge=Async()))
    assert groups[0].episodes[3].verdict.reward == 4.0


def test_only_what_ended_without_a_reward_is_compared():
    judge = ByLength()

    async def body(task, tuner):
        if task.attempt == 0:
            raise RuntimeError("breaks")
        output = await answer_by_attempt(task, tuner)
        return output if task.attempt > 1 else output.model_copy(update={"reward": 9.0})

    groups, _ = roll_out(pool(workflow=workflow_that(body), judge=judge), num_tasks=1)
    assert sorted(judge.asked[0]) == [2, 3]
    found = [e.verdict.reward if e.verdict else e.failure.kind for e in groups[0].episodes]
    assert found == ["WorkflowError", 9.0, 3.0, 4.0]
    assert [e.verdict.source for e in groups[0].judged] == ["workflow", "judge", "judge"]


def test_a_group_of_which_nothing_is_left_asks_no_judge():
    judge = ByLength()

    async def body(task, tuner):
        raise RuntimeError("breaks")

    roll_out(pool(workflow=workflow_that(body), judge=judge, max_failed_fraction=1.0))
    assert judge.asked == []


def _slow(*_):
    time.sleep(0.5)
    return [(1.0, True)] * 4


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda *_: 1 / 0, "judge Broken raised: ZeroDivisionError"),
        (lambda *_: [(1.0, True)], "was asked about 4 attempts and returned 1 of them"),
        (lambda *_: None, "returned NoneType; expected a list"),
        (lambda *_: "abcd", "returned str; expected a list"),
        (_slow, "did not answer in 0.1 s"),
    ],
)
def test_a_broken_comparison_fails_every_episode_that_it_was_about(answer, message):
    class Broken:
        def compute_rewards(self, workflow_tasks, workflow_outputs):
            return answer(workflow_tasks, workflow_outputs)

    groups, seen = roll_out(
        pool(
            workflow=workflow_that(answer_by_attempt),
            judge=Broken(),
            judge_timeout_seconds=0.1,
            max_failed_fraction=1.0,
        ),
        num_tasks=1,
    )
    assert [e.verdict for e in groups[0].episodes] == [None] * 4
    assert all(e.failure.kind == "JudgeError" for e in seen)
    assert all(message in e.failure.message for e in seen)


def test_a_comparison_that_ends_the_run_leaves_every_attempt_of_its_group_told():
    class Failing(ByLength):
        def compute_rewards(self, workflow_tasks, workflow_outputs):
            raise RuntimeError("no judge today")

    told = []

    async def go():
        rolling = pool(
            workflow=workflow_that(answer_by_attempt), judge=Failing(), max_failed_fraction=0.0
        )
        await rolling.run([TASK], num_repeat=4, step=1, is_validation=False, on_episode=told.append)

    with pytest.raises(BackboneError, match="no judge today"):
        asyncio.run(go())
    assert sorted(episode.attempt for episode in told) == [0, 1, 2, 3]


def test_one_result_that_is_no_number_fails_its_own_episode_only():
    class Odd:
        def compute_rewards(self, workflow_tasks, workflow_outputs):
            odd = {0: (float("nan"), True), 1: 0.5}
            return [odd.get(task.attempt, (1.0, True)) for task in workflow_tasks]

    groups, _ = roll_out(pool(workflow=workflow_that(answer_by_attempt), judge=Odd()), num_tasks=1)
    failures = [e.failure.message if e.failure else None for e in groups[0].episodes]
    assert "the reward is nan" in failures[0] and "returned 0.5" in failures[1]
    assert failures[2:] == [None, None]


def test_madness_decides_before_any_comparison():
    judge = ByLength()
    groups, _ = roll_out(
        pool(judge=judge, find_madness=lambda reply: "nonsense: repeats"), num_tasks=1
    )
    assert judge.asked == []
    assert {e.verdict.reward for e in groups[0].episodes} == {-1.0}


def test_a_slow_judge_overlaps_the_attempts_that_still_run():
    """The second attempt has its turn while the first one is judged, though one runs at a time."""
    second_ran = asyncio.Event()

    class Waiting:
        async def compute_reward(self, workflow_task, workflow_output):
            if workflow_task.attempt == 0:
                await asyncio.wait_for(second_ran.wait(), timeout=30)
            return 1.0, True

    async def body(task, tuner):
        if task.attempt == 1:
            second_ran.set()
        return WorkflowOutput()

    groups, _ = roll_out(
        pool(
            workflow=workflow_that(body), judge=Waiting(), max_parallel=1, judge_timeout_seconds=60
        ),
        num_tasks=1,
        num_repeat=2,
    )
    assert [e.verdict.reward for e in groups[0].episodes] == [1.0, 1.0]


def test_attempts_that_were_read_back_are_judged_as_when_they_ended():
    async def body(task, tuner):
        return WorkflowOutput(metadata={"answer": "xyz", "parts": [1, {"deep": None}]})

    judge = ByLength()
    rules = settings(workflow_that(body), judge=judge)
    first = asyncio.run(run_and_judge(rules, 2))
    lines = [json.dumps(episode_to_record(episode)) for episode in first]
    attempts = [attempt_from_record(json.loads(line)) for line in lines]
    again = asyncio.run(rules.judging.judge(attempts))
    assert [e.verdict for e in again] == [e.verdict for e in first]
    assert [e.metadata for e in again] == [e.metadata for e in first]
    assert judge.asked == [[0, 1], [0, 1]]


async def run_and_judge(rules, num_attempts):
    plans = [attempt(attempt=index, episode_id=f"e{index}") for index in range(num_attempts)]
    return await rules.judging.judge([await run_attempt(plan, rules.episode) for plan in plans])


def test_an_episode_that_its_judge_failed_can_be_judged_again():
    class Breaks:
        def compute_reward(self, workflow_task, workflow_output):
            raise JudgeError("the service is away")

    class Works:
        def compute_reward(self, workflow_task, workflow_output):
            return 0.5, True

    failed = run(judge=Breaks())
    assert failed.failure.message == "the service is away"
    unjudged = attempt_from_record(json.loads(json.dumps(episode_to_record(failed))))
    assert unjudged.failure is None and unjudged.sequences == failed.sequences
    judging = Judging(Works(), timeout_seconds=5, madness_reward=-1.0)
    (episode,) = asyncio.run(judging.judge([unjudged]))
    assert episode.verdict.reward == 0.5 and episode.failure is None


def test_a_workflow_that_failed_stays_failed_whatever_the_judge():
    async def body(task, tuner):
        raise KeyError("missing")

    failed = run(workflow_that(body))
    unjudged = attempt_from_record(episode_to_record(failed))
    judging = Judging(ByLength(), timeout_seconds=5, madness_reward=-1.0)
    assert asyncio.run(judging.judge([unjudged]))[0].failure == failed.failure


def test_rewards_by_role_are_held_against_the_agents_of_the_record():
    async def body(task, tuner):
        tuner.as_agentscope_model("ann", "seer")
        return WorkflowOutput()

    class ByRole:
        def compute_reward(self, workflow_task, workflow_output):
            return {"seer": 1.0}, True

    first = run(workflow_that(body), judge=ByRole())
    assert first.verdict.rewards == {"seer": 1.0}
    unjudged = attempt_from_record(json.loads(json.dumps(episode_to_record(first))))
    judging = Judging(ByRole(), timeout_seconds=5, madness_reward=-1.0)
    assert asyncio.run(judging.judge([unjudged]))[0].verdict == first.verdict
    stranger = replace(unjudged, agents={})
    (refused,) = asyncio.run(judging.judge([stranger]))
    assert "no agent's name" in refused.failure.message


def test_judging_knows_no_engine_gateway_or_workflow():
    """Also not by way of what it imports of the rollout."""
    allowed = tuple(
        f"astuner.{name}"
        for name in ("bridge", "calling", "errors", "types", "trajectory", "rollout")
    )
    seen, to_read = set(), [Path(judging_module.__file__)]
    while to_read:
        tree = ast.parse(to_read.pop().read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if not (isinstance(node, ast.ImportFrom) and node.module.startswith("astuner")):
                continue
            assert node.module.startswith(allowed), node.module
            if node.module.startswith("astuner.rollout") and node.module not in seen:
                seen.add(node.module)
                to_read.append(Path(judging_module.__file__).with_name(f"{node.module[16:]}.py"))
    assert seen == {
        f"astuner.rollout.{name}" for name in ("bounded", "containment", "step_rewards", "verdict")
    }


class Comparing(GroupJudge):
    def compute_rewards(self, workflow_tasks, workflow_outputs):
        return [(self.config.bonus, True)] * len(workflow_outputs)


class Alone(BaseJudge):
    def compute_reward(self, workflow_task, workflow_output):
        return 1.0, True


class Unfinished(GroupJudge):
    pass


def test_the_settings_may_name_a_judge_of_either_kind(tmp_path):
    from astuner.backbone.user_code import make_judge

    def named(name):
        named = {"judge_type": "customized_protocol", "judge_protocol": f"{__file__}->{name}"}
        judge = type("J", (), named)
        return make_judge(type("S", (), {"task_judge": judge}), None, (tmp_path,))

    assert type(named("Comparing")).__name__ == "Comparing"
    assert type(named("Alone")).__name__ == "Alone"
    with pytest.raises(ConfigError, match="lacks compute_rewards"):
        named("Unfinished")
    with pytest.raises(ConfigError, match="not a subclass of"):
        named("ByLength")


def test_the_task_that_a_judge_gets_is_the_one_that_was_run():
    got = []

    class Noting:
        def compute_reward(self, workflow_task, workflow_output):
            got.append(workflow_task)
            return 1.0, True

    run(workflow_that(answer_by_attempt), judge=Noting())
    assert (got[0].task, got[0].episode_id, got[0].attempt) == (TASK, "e", 0)


class Preparing(BaseJudge):
    """Remembers in which order it is asked for what."""

    def __init__(self):
        self.asked = []

    async def prepare(self):
        await asyncio.sleep(0)
        self.asked.append("prepare")

    async def compute_reward(self, workflow_task, workflow_output):
        self.asked.append("judge")
        return 1.0, True


def test_a_judge_is_made_ready_once_before_it_is_asked_anything():
    judge = Preparing()
    rolling = pool(workflow=workflow_that(answer_by_attempt), judge=judge)
    roll_out(rolling)
    roll_out(rolling)
    assert judge.asked == ["prepare", *["judge"] * 24]


def test_a_judge_that_cannot_be_made_ready_ends_the_run_with_its_reason():
    class Broken(Preparing):
        def prepare(self):
            raise OSError("no dictionary")

    judge = Broken()
    with pytest.raises(JudgeError, match="judge Broken raised: OSError: no dictionary"):
        roll_out(pool(workflow=workflow_that(answer_by_attempt), judge=judge))
    assert judge.asked == []


# What a judge may say beside the reward


def judged_as(judgement):
    class Saying(BaseJudge):
        def compute_reward(self, workflow_task, workflow_output):
            return judgement

    body = workflow_that(answer_by_attempt)
    return run(body, judge=Saying(None))


def test_a_note_and_parts_stand_in_the_verdict_and_in_its_record():
    said = Judgement(reward=0.5, note="Right, in French.", parts={"right": 1, "language": 0.0})
    episode = judged_as(said)
    assert (episode.verdict.reward, episode.verdict.is_success) == (0.5, True)
    assert episode.verdict.note == "Right, in French."
    assert episode.verdict.parts == {"right": 1.0, "language": 0.0}
    again = episode_from_record(json.loads(json.dumps(episode_to_record(episode))))
    assert again.verdict == episode.verdict


@pytest.mark.parametrize("part", [float("nan"), None, "much"])
def test_a_part_that_is_no_finite_number_fails_the_episode(part):
    failure = judged_as(Judgement(reward=1.0, parts={"length": part})).failure
    assert failure.kind == "JudgeError" and "has a part 'length', which is" in failure.message


def test_a_record_without_note_and_parts_reads_as_one_that_has_none():
    record = episode_to_record(judged_as((1.0, True))) | {"format": 2}
    del record["verdict"]["note"], record["verdict"]["parts"]
    verdict = episode_from_record(record).verdict
    assert (verdict.note, verdict.parts) == ("", {})


def test_what_a_judge_waits_for_because_of_others_does_not_count_towards_its_time():
    class OneAtATime(BaseJudge):
        def __init__(self):
            super().__init__(None)
            self.place = asyncio.Lock()

        async def compute_reward(self, workflow_task, workflow_output):
            with uncounted():
                await self.place.acquire()
            try:
                await asyncio.sleep(100 if workflow_task.attempt == 1 else 0.15)
            finally:
                self.place.release()
            return 1.0, True

    async def body(task, tuner):
        return WorkflowOutput(metadata={})

    asked = pool(
        workflow=workflow_that(body),
        judge=OneAtATime(),
        judge_timeout_seconds=0.4,
        max_failed_fraction=1.0,
    )
    groups, _ = roll_out(asked, num_tasks=1)
    failed = [episode.failure is not None for episode in groups[0].episodes]
    assert failed == [False, True, False, False]
