"""Step rewards: what single calls earned, in verdicts, advantages and samples."""

import asyncio
import math
import random
from dataclasses import replace

import pytest

from astuner.algorithm.advantage import grpo
from astuner.algorithm.batch import count_missing, is_useful, make_batch
from astuner.algorithm.step_advantage import RoleSteps, StepAdvantage, gigpo, return_to_go
from astuner.algorithm.step_metrics import rollout_metrics
from astuner.rollout.judging import Judging
from astuner.task_judge.base_judge import GroupJudge
from astuner.training.packing import pack
from astuner.trajectory.attempt import Attempt
from astuner.trajectory.episode import Group
from astuner.trajectory.merge import merge_calls
from astuner.trajectory.record import attempt_from_record, episode_from_record, episode_to_record
from astuner.trajectory.recorder import Recorder
from astuner.trajectory.samples import mean_advantage
from astuner.types import Task, WorkflowOutput
from tests.chats import make_call

TASK = Task(main_query="Go.", task_id="t")
TO_GO = StepAdvantage(function=return_to_go, gamma=1.0, weight=1.0)


def chain(names=("plan", "act", "plan"), *, agent="solver", start=1):
    """Calls that extend each other, each of two sampled tokens."""
    calls, prompt = [], [start, 1]
    for index, name in enumerate(names):
        call = make_call(prompt, [7, 8], agent_name=agent, target_tag="t")
        calls.append(replace(call, name=name, extends=index - 1 if index else None))
        prompt = [*calls[-1].ids, 3]
    return calls


def attempted(calls=None, *, attempt=0, **output):
    calls = calls or chain()
    return Attempt(
        episode_id=f"t-{attempt}",
        task=TASK,
        step=1,
        attempt=attempt,
        is_validation=False,
        calls=tuple(calls),
        sequences=tuple(merge_calls(calls)),
        agents={call.agent: call.is_trained for call in calls},
        output=WorkflowOutput(**output),
        failure=None,
        overflowed=frozenset(),
        madness=None,
        seconds=1.0,
    )


def judged(attempts, judge=None):
    judging = Judging(judge, timeout_seconds=5, madness_reward=-1.0)
    return asyncio.run(judging.judge(attempts))


def group_of(*attempts):
    return Group(task=TASK, episodes=tuple(judged(attempts)))


def steps(outcome, rewards, states=None):
    return RoleSteps(
        outcome=outcome, rewards=tuple(rewards), states=tuple(states or map(str, rewards))
    )


class Halves:
    def compute_reward(self, workflow_task, workflow_output):
        return 0.5, False


class Side(GroupJudge):
    def compute_rewards(self, workflow_tasks, workflow_outputs):
        return [(float(task.attempt), True) for task in workflow_tasks]


def test_a_reward_is_its_outcome_and_what_calls_earned():
    (episode,) = judged([attempted(reward=1.0, step_rewards=[0.25, 0.5, 0.0])])
    assert episode.verdict.reward == 1.75
    assert episode.verdict.call_rewards == (0.25, 0.5, 0.0)


def test_a_name_is_rewarded_at_its_last_call():
    (episode,) = judged([attempted(step_rewards={"plan": 2.0, "act": 1.0})])
    assert episode.verdict.call_rewards == (0.0, 1.0, 2.0)
    assert (episode.verdict.reward, episode.verdict.source) == (3.0, "workflow")


def test_judges_give_the_outcome_beside_step_rewards():
    given = [attempted(attempt=i, step_rewards=[0.25, 0, 0]) for i in range(2)]
    assert [e.verdict.reward for e in judged(given, Halves())] == [0.75, 0.75]
    assert [e.verdict.reward for e in judged(given, Side(None))] == [0.25, 1.25]


def test_each_role_gets_what_its_own_calls_earned():
    calls = [*chain(("a",)), *chain(("b",), agent="other", start=5)]
    given = attempted(calls, reward={"solver": 1, "other": 0}, step_rewards={"other": [0.5]})
    (episode,) = judged([given])
    assert episode.verdict.rewards == {"solver": 1.0, "other": 0.5}
    assert episode.verdict.reward == 0.75


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([1.0], "are 1 in the list, and the trained agents made 3 calls"),
        ({"paln": 1.0}, "names 'paln', and the calls of this episode are named ['act', 'plan']"),
        ({"plan": [1.0]}, "have [1.0] for 'plan', which is the name of calls; give one number"),
        ({"solver": 1.0}, "'solver', which is an agent; give a list"),
        ({"solver": [1.0, 2.0]}, "are 2 of 'solver', and the agent 'solver' made 3 calls"),
        ([math.nan, 0, 0], "have nan in the list; expected finite numbers"),
        ({"act": math.inf}, "have inf of 'act'"),
        ({"plan": 1.0, "t": [0, 0, 0]}, "give call 3 a second number"),
    ],
)
def test_step_rewards_that_fit_no_calls_fail_the_episode(given, said):
    (episode,) = judged([attempted(reward=1.0, step_rewards=given)])
    assert episode.failure.kind == "WorkflowError"
    assert said in episode.failure.message


def test_a_name_of_calls_that_is_an_agents_is_refused():
    (episode,) = judged([attempted(chain(("solver",)), step_rewards={"solver": 1.0})])
    assert "which names calls and an agent" in episode.failure.message


def test_calls_are_named_until_they_are_named_anew():
    recorder = Recorder()
    recorder.add(make_call([1], [2]))
    recorder.name_calls("plan", state="s")
    recorder.name_calls("look", agent_name="other")
    taken = recorder.add(make_call([1], [2]), is_taken=False)
    recorder.add(make_call([1], [2], agent_name="other"))
    recorder.name_calls(None)
    recorder.add(make_call([1], [2], agent_name="other"))
    recorder.take([taken])
    named = [(call.name, call.state) for call in recorder.calls]
    assert named == [(None, None), ("plan", "s"), ("look", None), (None, None)]


def test_records_keep_step_rewards_and_names_and_are_judged_the_same_again():
    (episode,) = judged([attempted(reward=1.0, step_rewards={"plan": 2.0})])
    record = episode_to_record(episode)
    assert episode_from_record(record).verdict == episode.verdict
    assert episode_from_record(record).calls == episode.calls
    (again,) = judged([attempt_from_record(record)])
    assert again.verdict == episode.verdict


def test_a_record_without_step_rewards_says_nothing_of_them():
    (episode,) = judged([attempted(chain((None,)), reward=1.0)])
    record = episode_to_record(episode)
    assert "call_rewards" not in record["verdict"] and "step_rewards" not in record["output"]
    assert "name" not in record["calls"][0] and "state" not in record["calls"][0]
    assert not any("steps" in name for name in rollout_metrics([group_of()], seconds=1))


@pytest.mark.parametrize("seed", range(20))
def test_return_to_go_of_outcomes_alone_is_grpo(seed):
    drawn = random.Random(seed)
    rewards = [drawn.choice([0.0, 0.3, 1.0]) for _ in range(drawn.randint(2, 6))]
    lengths = [drawn.randint(1, 5) for _ in rewards]
    found = TO_GO.of_group([steps(r, [0.0] * n) for r, n in zip(rewards, lengths, strict=True)])
    wanted = grpo([rewards])[0]
    for values, value, length in zip(found, wanted, lengths, strict=True):
        assert values == pytest.approx([value] * length, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("function", [return_to_go, gigpo])
def test_the_order_of_a_group_changes_nothing(function):
    estimator = StepAdvantage(function=function, gamma=0.9, weight=0.5)
    group = [steps(1.0, [0.1, 0.2], "ab"), steps(0.0, [0.3], "a"), steps(0.5, [0, 0, 1], "bba")]
    forwards, backwards = estimator.of_group(group), estimator.of_group(group[::-1])
    for one, other in zip(forwards, backwards[::-1], strict=True):
        assert one == pytest.approx(other)


def test_returns_are_discounted_towards_the_end():
    assert steps(4.0, [1.0, 2.0, 0.0]).returns(0.5) == (3.0, 4.0, 4.0)


def test_return_to_go_against_numbers_worked_by_hand():
    found = TO_GO.of_group([steps(0.0, [1.0, 1.0]), steps(0.0, [0.5])])
    # Returns (2, 1) and (0.5): mean 1; squares ((1 + 0) / 2 + 0.25) / 1 = 0.75.
    scale = math.sqrt(0.75) + 1e-6
    assert found[0] == pytest.approx((1 / scale, 0.0))
    assert found[1] == pytest.approx((-0.5 / scale,))


def test_gigpo_compares_calls_in_an_equal_state():
    estimator = StepAdvantage(function=gigpo, gamma=1.0, weight=2.0)
    group = [steps(1.0, [0.0, 0.0], ("s", "x")), steps(0.0, [0.0], ("s",))]
    half = 0.5 / (math.sqrt(0.5) + 1e-6)
    first, second = estimator.of_group(group)
    assert first == pytest.approx((3 * half, half)) and second == pytest.approx((-3 * half,))


@pytest.mark.parametrize("function", [return_to_go, gigpo])
def test_equal_returns_teach_nothing(function):
    estimator = StepAdvantage(function=function, gamma=0.9, weight=1.0)
    group = [steps(0.1, [0.2, 0.0], "ab")] * 3
    assert estimator.of_group(group) == [(0.0, 0.0)] * 3


def test_tokens_of_a_call_share_its_advantage():
    group = group_of(
        attempted(attempt=0, reward=1.0, step_rewards=[1.0, 0.0, 0.0]),
        attempted(attempt=1, reward=0.0, step_rewards=[0.0, 0.0, 1.0]),
    )
    batch = make_batch([group], advantage=TO_GO, max_sequences=9)
    given = TO_GO.of_group([steps(1.0, [1, 0, 0]), steps(0.0, [0, 0, 1])])
    for sample, values in zip(batch.samples, given, strict=True):
        assert sample.call_advantages == tuple((2, value) for value in values)
    (packed,) = pack(batch.samples, max_tokens=1000)
    for index, values in enumerate(given):
        of_sample = packed.advantage_N[packed.sample_N == index].tolist()
        assert of_sample == pytest.approx([value for value in values for _ in range(2)])


def test_a_call_on_two_paths_is_trained_once_with_its_own_advantage():
    calls = chain(("a", "b"))
    branch = make_call([*calls[0].ids, 9], [5], agent_name="solver", target_tag="t")
    given = [
        attempted([*calls, branch], attempt=i, step_rewards=[i, 0.0, 2.0 * i]) for i in range(2)
    ]
    samples = make_batch([group_of(*given)], advantage=TO_GO, max_sequences=9).samples
    assert [[n for n, _ in sample.advantage_runs] for sample in samples] == [[2, 2], [1]] * 2


def test_a_group_with_equal_totals_is_useful_where_calls_are_compared():
    group = group_of(
        attempted(attempt=0, step_rewards=[1, 0, 0]), attempted(attempt=1, step_rewards=[0, 0, 1])
    )
    assert not is_useful(group) and is_useful(group, TO_GO)
    assert count_missing([group], size=1, advantage=TO_GO) == 0
    assert make_batch([group], advantage=TO_GO, max_sequences=9).num_flat_groups == 0
    assert make_batch([group], advantage=grpo, max_sequences=9).num_flat_groups == 1
    assert rollout_metrics([group], seconds=1)["reward/steps_mean"] == 1.0


def test_a_penalty_is_due_at_the_last_call():
    group = group_of(*(attempted(attempt=i, step_rewards=[0, 1, 0]) for i in range(2)))
    batch = make_batch(
        [group], advantage=TO_GO, max_sequences=9, penalty_of=lambda e, _: float(e.attempt)
    )
    given = TO_GO.of_group([steps(0.0, [0, 1, 0]), steps(-1.0, [0, 1, 0])])
    found = [[value for _, value in sample.call_advantages] for sample in batch.samples]
    assert found == [pytest.approx(values) for values in given]


@pytest.mark.parametrize(
    ("runs", "mean"),
    [
        (((2, 1.0), (6, -1.0)), -0.5),
        (((3, 1e308), (1, 1e308 / 2)), 0.875e308),
        (((10_000_000, -1e308), (1, 0.0)), -1e308),
        (((1, 1.5e308), (1, -1.5e308)), 0.0),
    ],
)
def test_the_mean_of_advantages_is_between_them_however_large_they_are(runs, mean):
    assert mean_advantage(runs) == pytest.approx(mean, rel=1e-6)
