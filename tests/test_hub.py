"""Where the processes of a clustered run meet: what a step trains on, and what ends a run."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest

from astuner.algorithm.advantage import dr_grpo
from astuner.algorithm.batch import make_batch
from astuner.backbone.cluster.hub import Hub
from astuner.backbone.cluster.hub_handle import HubHandle
from astuner.backbone.cluster.mapping import nested
from astuner.backbone.cluster.messages import Probe, SavedState
from astuner.backbone.worker_run import WorkerRun
from astuner.config.load import load_mapping
from astuner.errors import ConfigError, LlmBudgetError
from astuner.rollout.judging import Judging
from astuner.run_dir import RunDir
from astuner.trajectory.attempt import Failure
from astuner.trajectory.merge import merge_calls
from astuner.trajectory.record import (
    attempt_from_record,
    attempt_to_record,
    episode_to_record,
)
from astuner.trajectory.refused import RefusedCall
from astuner.types import WorkflowOutput
from tests.chats import make_call
from tests.runs import make_run
from tests.test_roles import SEER, TASK, WOLF, call_of, make_episode, make_group

WORKFLOW = f"{Path(__file__).parent}/agents/duel.py->duel"


def make_settings(**changed):
    """Two tasks a step, three episodes each; `changed` are settings, with `__` for a dot."""
    settings = {
        "model.path": "some/model",
        "rollout.agentscope_workflow": WORKFLOW,
        "data.train_batch_size": 2,
        "rollout.num_repeat": 3,
        "trainer_common.algorithm.adv_estimator": "dr_grpo",
        **{key.replace("__", "."): value for key, value in changed.items()},
    }
    return {"astuner": nested(settings)}


def make_hub(**changed):
    loaded = load_mapping(make_settings(**changed), name="test")
    run = make_run(loaded, RunDir(root=Path("/nowhere")))
    return Hub(WorkerRun.of(run), {"train": [TASK], "validation": []})


def add(hub, group, *episodes, targets=()):
    for episode in episodes:
        line = json.dumps(episode_to_record(episode)).encode() + b"\n"
        at_once(hub.add_episode(line, group=group, targets=targets))


def at_once(work):
    """What a coroutine returns that has nothing to wait for, also inside of a running loop."""
    try:
        work.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("it waits")


def failed(episode):
    failure = Failure(kind="WorkflowError", message="it broke", traceback="")
    return replace(episode, verdict=None, failure=failure)


def three(task, rewards):
    return [make_episode(attempt, reward, task=task) for attempt, reward in enumerate(rewards)]


def planned(plan):
    return {s.key: s.advantage for s in plan.samples}


def test_a_step_trains_on_what_the_local_backbone_would_make_of_the_same_episodes():
    hub = make_hub()
    groups = {"a": three("a", [0.0, 1.0, 1.0]), "b": three("b", [{"wolf": 1.0, "seer": 0.0}] * 3)}
    groups["b"][0] = make_episode(0, {"wolf": 0.0, "seer": 0.0}, task="b")
    for name, episodes in groups.items():
        add(hub, name, *episodes)
    plan = hub.plan(1)
    local = make_batch(
        [make_group(*episodes) for episodes in groups.values()],
        advantage=dr_grpo,
        max_sequences=30,
    )
    names = {e.episode_id: (g, e.attempt) for g, es in groups.items() for e in es}
    assert planned(plan) == {
        (*names[s.episode_id], s.sequence): pytest.approx(s.advantage) for s in local.samples
    }
    assert plan.num_missing == 0


def test_an_episode_at_the_mean_of_its_group_is_planned_with_advantage_0():
    hub = make_hub()
    add(hub, "a", *three("a", [0.0, 0.5, 1.0]))
    add(hub, "b", *three("b", [1.0, 1.0, 1.0]))
    assert planned(hub.plan(1)) == {
        ("a", attempt, sequence): value
        for attempt, value in enumerate((-0.5, 0.0, 0.5))
        for sequence in (0, 1)
    }


def test_a_failed_episode_is_no_part_of_its_group():
    hub = make_hub()
    good = three("a", [0.0, 1.0, 0.5])
    add(hub, "a", good[0], good[1], failed(good[2]))
    add(hub, "b", *three("b", [0.0, 1.0, 1.0]))
    plan = hub.plan(1)
    assert {key: value for key, value in planned(plan).items() if key[0] == "a"} == {
        ("a", attempt, sequence): pytest.approx(value)
        for attempt, value in ((0, -0.5), (1, 0.5))
        for sequence in (0, 1)
    }


def test_sequences_are_counted_among_the_trained_ones():
    opponent = call_of(WOLF, 10, is_trained=False)
    hub = make_hub()
    for group in ("a", "b"):
        calls = [opponent, call_of(SEER, 20)]
        add(hub, group, *[make_episode(i, float(i), calls, task=group) for i in range(3)])
    assert merge_calls([opponent, call_of(SEER, 20)])[1].num_trained == 2
    assert {s.key.sequence for s in hub.plan(1).samples} == {0}


def test_groups_come_in_any_order_and_attempts_too():
    first, second = make_hub(), make_hub()
    groups = {"a": three("a", [0.0, 1.0, 1.0]), "b": three("b", [1.0, 0.0, 1.0])}
    for name in ("a", "b"):
        add(first, name, *groups[name])
    for name in ("b", "a"):
        add(second, name, *reversed(groups[name]))
    assert planned(first.plan(1)) == planned(second.plan(1))


def test_an_episode_of_many_sequences_weighs_as_one_where_losses_are_means_over_sequences():
    for mode, weight in (("token-mean", 1.0), ("seq-mean-token-mean", 0.5)):
        hub = make_hub(trainer_common__algorithm__loss_agg_mode=mode)
        for group in ("a", "b"):
            add(hub, group, *three(group, [0.0, 1.0, 1.0]))
        assert {s.weight for s in hub.plan(1).samples} == {weight}


def test_flat_groups_are_replaced_while_the_settings_allow_it():
    hub = make_hub(trainer_common__algorithm__dynamic_sampling_max_batches=1)
    add(hub, "a", *three("a", [1.0, 1.0, 1.0]))
    add(hub, "b", *three("b", [0.0, 1.0, 1.0]))
    assert hub.plan(1).num_missing == 1
    add(hub, "c", *three("c", [1.0, 0.0, 0.0]))
    plan = hub.plan(1)
    assert plan.num_missing == 0
    assert {s.key.group for s in plan.samples} == {"b", "c"}


def test_a_step_that_teaches_nothing_is_rolled_out_again_and_at_last_ends_the_run():
    hub = make_hub(trainer_common__detectors__no_spread_steps=2)
    for round_ in range(3):
        assert hub.news().failure is None
        for group in ("a", "b"):
            add(hub, f"{group}{round_}", *three(f"{group}{round_}", [1.0, 1.0, 1.0]))
        plan = hub.plan(1)
        assert plan.samples == ()
    assert plan.num_missing == 0
    assert "nothing to learn from" in str(hub.news().failure)


def test_too_many_failed_episodes_end_the_run_with_the_commonest_reason():
    hub = make_hub(rollout__max_failed_fraction=0.3)
    add(hub, "a", failed(three("a", [0.0, 0.0, 0.0])[0]))
    assert hub.news().failure is None
    add(hub, "a", *map(failed, three("a", [0.0, 0.0, 0.0])[1:]))
    text = str(hub.news().failure)
    assert "of 6 episodes failed" in text and "it broke" in text


@pytest.mark.parametrize("plan", [Hub.plan, Hub.plan_of_what_is_there])
def test_a_step_whose_calls_were_all_refused_ends_the_run_with_the_commonest_refusal(plan):
    hub, path = make_hub(), "/v1/responses"
    call = RefusedCall.of(path=path, status=400, field="input", message="no list")
    for group in ("a", "b"):
        for episode in three(group, [0.0, 1.0, 1.0]):
            refused = {"refused_calls": {call: 2}, "num_refused_calls": 2}
            add(hub, group, replace(episode, calls=(), sequences=(), **refused))
    plan(hub, 1)
    text = str(hub.news().failure)
    assert (
        "step 1: no model call of 6 episodes" in text
        and f"(12 times): {path} 400 input: no list" in text
    )


def test_a_target_that_no_agent_has_ends_the_run():
    hub = make_hub()
    notes = [(("wulf",), (WOLF, SEER))]
    add(hub, "a", *three("a", [0.0, 1.0, 1.0]), targets=notes)
    add(hub, "b", *three("b", [0.0, 1.0, 1.0]), targets=notes)
    hub.plan(1)
    assert "'wulf'" in str(hub.news().failure)


def test_the_first_reason_to_end_counts():
    hub = make_hub()
    hub.fail(ValueError("first"))
    hub.fail(ValueError("second"))
    assert str(hub.news().failure) == "first"


def test_news_are_told_once_and_in_order():
    hub = make_hub()
    hub.enter("rollout", step=1, total=6)
    add(hub, "a", *three("a", [0.0, 1.0, 1.0]))
    news = hub.news()
    assert news.begun == [("rollout", 1)]
    assert (news.phase.name, news.phase.done, news.phase.total) == ("rollout", 3, 6)
    assert [(step, is_validation) for step, is_validation, _ in news.episodes] == [(1, False)] * 3
    later = hub.news()
    assert later.episodes == [] and later.begun == []
    assert later.phase.name == "rollout"


def test_metrics_of_a_step_hold_its_rollout_and_what_the_trainer_says():
    hub = make_hub()
    add(hub, "a", *three("a", [0.0, 1.0, 1.0]))
    add(hub, "b", *three("b", [1.0, 1.0, 1.0]))
    hub.plan(1)
    hub.finish_step(1, {"train/loss": 0.5})
    (metrics,) = hub.news().steps
    assert metrics["step"] == 1
    assert metrics["reward/mean"] == pytest.approx(5 / 6)
    assert metrics["rollout/flat_groups"] == 1
    assert metrics["train/loss"] == 0.5


def trained_lines(hub):
    """Step and record of all that the news tell of what was trained."""
    return [(step, json.loads(line)) for step, lines in hub.news().trained for line in lines]


def test_what_a_step_trained_is_told_once_it_is_finished():
    hub = make_hub()
    episodes = three("a", [0.0, 1.0, 1.0])
    add(hub, "a", *episodes)
    add(hub, "b", *three("b", [1.0, 1.0, 1.0]))
    plan = hub.plan(1)
    num_trained = [
        episodes[s.key.attempt].sequences[s.key.sequence].num_trained for s in plan.samples
    ]
    logprobs = {
        sample.key.text: [-0.5 - index / 100] * size
        for index, (sample, size) in enumerate(zip(plan.samples, num_trained, strict=True))
    }
    logprobs[plan.samples[-1].key.text].append(-9.0)  # not of the tokens that are trained
    hub.add_logprobs(1, logprobs)
    assert trained_lines(hub) == []
    hub.finish_step(1, {})
    lines = trained_lines(hub)
    assert [step for step, _ in lines] == [1] * len(plan.samples)
    for (_, line), sample in zip(lines, plan.samples, strict=True):
        assert line["episode_id"] == episodes[sample.key.attempt].episode_id
        assert line["advantage"] == pytest.approx(sample.advantage, abs=1e-6)
        assert line["update"] == 0 and line["weight"] is None
        is_whole = sample is not plan.samples[-1]
        assert line["logprobs"] == (logprobs[sample.key.text] if is_whole else None)
    assert trained_lines(hub) == []


def test_an_engine_that_tells_no_log_probabilities_leaves_them_open():
    hub = make_hub(trainer_common__mini_batch_num=2)
    add(hub, "a", *three("a", [0.0, 1.0, 1.0]))
    add(hub, "b", *three("b", [1.0, 1.0, 1.0]))
    hub.plan_of_what_is_there(1)
    hub.finish_step(1, {})
    lines = trained_lines(hub)
    assert lines and all(line["logprobs"] is None for _, line in lines)
    assert all(line["update"] is None for _, line in lines)


def test_what_is_trained_is_not_told_where_nobody_wants_it():
    hub = make_hub(trainer_common__record_training=False)
    add(hub, "a", *three("a", [0.0, 1.0, 1.0]))
    add(hub, "b", *three("b", [1.0, 1.0, 1.0]))
    hub.plan(1)
    hub.finish_step(1, {})
    assert trained_lines(hub) == []


def test_the_lag_is_how_many_updates_behind_its_trainer_a_step_was_sampled():
    hub = make_hub()
    for name in ("a", "b"):  # by version 0 of the weights
        add(hub, name, *(replace(e, step=3) for e in three(name, [0.0, 1.0, 1.0])))
    hub.plan(3)
    hub.finish_step(3, {})
    (metrics,) = hub.news().steps
    assert metrics["rollout/weight_version_lag"] == 2


def test_a_validation_is_summed_up_when_it_is_over():
    hub = make_hub()
    for attempt, reward in enumerate([0.0, 1.0, 1.0]):
        episode = replace(make_episode(attempt, reward), is_validation=True, step=4)
        add(hub, "v", episode)
    hub.finish_validation(4)
    (validation,) = hub.news().validations
    assert (validation.step, validation.reward_mean) == (4, pytest.approx(2 / 3))


def test_a_saved_state_is_passed_on():
    hub = make_hub()
    probe = Probe(ids=(1, 2), first=1, logprobs=(-0.5,), temperature=1.0)
    state = SavedState(step=3, weights="/somewhere", probes=(probe,))
    hub.saved(state)
    assert hub.news().saved == [state]


def test_a_stop_is_asked_for_and_seen():
    hub = make_hub()
    assert not hub.is_stop_requested()
    hub.request_stop()
    assert hub.is_stop_requested()


def test_calls_stay_what_they_were_on_their_way():
    call = make_call([1, 2], [3, 4])
    hub = make_hub()
    add(hub, "a", make_episode(0, 1.0, [call]))
    (_, _, record) = hub.news().episodes[0]
    assert json.loads(record)["calls"][0]["completion_ids"] == [3, 4]


class Ranking:
    """Compares by what the workflows said, the longest first."""

    def compute_rewards(self, workflow_tasks, workflow_outputs):
        said = [len(output.metadata["said"]) for output in workflow_outputs]
        return [(sorted(said).index(one) / len(said), one == max(said)) for one in said]


def unjudged(task, attempt, said):
    """As a worker brings what its own judge could not decide."""
    output = WorkflowOutput(metadata={"said": said})
    made = attempt_from_record(episode_to_record(make_episode(attempt, 0.0, task=task)))
    return json.dumps(attempt_to_record(replace(made, output=output))).encode()


def test_what_is_compared_waits_for_the_last_attempt_of_its_group_wherever_it_ran():
    hub = make_hub()
    hub._judging = Judging(Ranking(), timeout_seconds=5, madness_reward=-1.0)

    async def bring():
        first = asyncio.ensure_future(hub.compare(unjudged("a", 0, "much more"), group="a"))
        second = asyncio.ensure_future(hub.compare(unjudged("a", 1, "more"), group="a"))
        await asyncio.sleep(0)
        assert not first.done() and hub.news().episodes == []
        last = failed(make_episode(2, 0.0, task="a"))
        await hub.add_episode(json.dumps(episode_to_record(last)).encode(), group="a")
        return [json.loads(await one) for one in (first, second)]

    judged = asyncio.run(bring())
    assert [one["verdict"]["reward"] for one in judged] == [0.5, 0.0]
    assert [json.loads(line)["attempt"] for _, _, line in hub.news().episodes] == [2, 0, 1]
    plan = hub.plan_of_what_is_there(1)
    assert {attempt: a for (_, attempt, _), a in planned(plan).items()} == {0: 0.25, 1: -0.25}


def test_groups_of_one_name_are_told_apart_by_step_and_by_validation():
    hub = make_hub(rollout__val_kwargs__num_repeat=1)
    hub._judging = Judging(Ranking(), timeout_seconds=5, madness_reward=-1.0)
    attempt = json.loads(unjudged("a", 0, "more"))

    async def bring():
        waiting = asyncio.ensure_future(hub.compare(json.dumps(attempt).encode(), group="a"))
        validated = {**attempt, "is_validation": True}
        answer = await hub.compare(json.dumps(validated).encode(), group="a")
        assert not waiting.done()
        waiting.cancel()
        return json.loads(answer)

    assert asyncio.run(bring())["is_validation"]


class Slow:
    """Compares when it is let; `most` are the groups that it was asked about at once."""

    def __init__(self):
        self.may_answer = asyncio.Event()
        self.num_asked = self.most = 0

    async def compute_rewards(self, workflow_tasks, workflow_outputs):
        self.num_asked += 1
        self.most = max(self.most, self.num_asked)
        await self.may_answer.wait()
        self.num_asked -= 1
        return [(float(task.attempt), True) for task in workflow_tasks]


class Refusing:
    """Raises what it was made with."""

    def __init__(self, error):
        self._error = error

    async def compute_rewards(self, workflow_tasks, workflow_outputs):
        raise self._error


def hub_with(judge, **changed):
    hub = make_hub(**changed)
    hub._judging = Judging(judge, timeout_seconds=5, madness_reward=-1.0)
    return hub


def compared(hub, *attempts, group="a"):
    """The calls of workers that brought these attempts and wait."""
    return [
        asyncio.ensure_future(hub.compare(unjudged(group, attempt, "said"), group=group))
        for attempt in attempts
    ]


async def turns():
    """Have everything that can go on do so."""
    for _ in range(20):
        await asyncio.sleep(0)


def told(hub):
    """The attempts whose episodes are news, in order."""
    return sorted(json.loads(line)["attempt"] for _, _, line in hub.news().episodes)


def rewards(lines):
    return [json.loads(line)["verdict"]["reward"] for line in lines]


@pytest.mark.parametrize("error", [LlmBudgetError("used up"), ConfigError("a refused key")])
def test_what_a_comparing_judge_raises_to_end_the_run_ends_it_by_its_name(error):
    hub = hub_with(Refusing(error))

    async def bring():
        return await asyncio.gather(*compared(hub, 0, 1, 2), return_exceptions=True)

    assert asyncio.run(bring()) == [error] * 3
    news = hub.news()
    assert news.failure is error and news.episodes == []


def test_a_fault_of_our_own_reaches_all_who_wait():
    hub = make_hub()

    class Broken:
        async def compare(self, attempts):
            raise KeyError("a fault")

    hub._judging = Broken()

    async def bring():
        return await asyncio.gather(*compared(hub, 0, 1, 2), return_exceptions=True)

    assert [type(error) for error in asyncio.run(bring())] == [KeyError] * 3


def test_who_gives_up_waiting_costs_its_group_nothing():
    hub = hub_with(judge := Slow())

    async def bring():
        judge.may_answer.set()
        first, second = compared(hub, 0, 1)
        await turns()
        first.cancel()
        await turns()
        return rewards(await asyncio.gather(second, *compared(hub, 2)))

    assert asyncio.run(bring()) == [1.0, 2.0]
    assert told(hub) == [0, 1, 2]


@pytest.mark.parametrize("gone", [(2,), (0,), (0, 1, 2)])
def test_a_group_is_judged_to_its_end_whoever_goes_meanwhile(gone):
    hub = hub_with(judge := Slow())

    async def bring():
        waiting = compared(hub, 0, 1, 2)
        await turns()
        for attempt in gone:
            waiting[attempt].cancel()
        await turns()
        judge.may_answer.set()
        answers = await asyncio.gather(*waiting, return_exceptions=True)
        await turns()
        return [one for one in answers if not isinstance(one, asyncio.CancelledError)]

    assert rewards(asyncio.run(bring())) == [float(i) for i in range(3) if i not in gone]
    assert told(hub) == [0, 1, 2]


def test_the_last_of_a_group_does_not_wait_for_the_judge_of_the_others():
    hub = hub_with(Slow())

    async def bring():
        waiting = compared(hub, 0, 1)
        await turns()
        add(hub, "a", failed(make_episode(2, 0.0, task="a")))
        await turns()
        assert not any(one.done() for one in waiting)

    asyncio.run(bring())
    assert told(hub) == [2]


def test_an_attempt_that_is_brought_again_waits_for_the_same_verdict_and_counts_once():
    hub = hub_with(judge := Slow())

    async def bring():
        waiting = compared(hub, 0, 0, 1)
        await turns()
        assert judge.num_asked == 0
        waiting += compared(hub, 2)
        await turns()
        waiting += compared(hub, 2)  # while the judge works
        await turns()
        judge.may_answer.set()
        lines = await asyncio.gather(*waiting)
        return rewards([*lines, *await asyncio.gather(*compared(hub, 1))])  # and when it is over

    assert asyncio.run(bring()) == [0.0, 0.0, 1.0, 2.0, 2.0, 1.0]
    assert judge.most == 1
    assert told(hub) == [0, 1, 2]


@pytest.mark.parametrize("is_validation", [False, True])
def test_an_episode_that_is_brought_again_is_answered_by_the_one_that_counts(is_validation):
    hub = make_hub()
    lines = [
        json.dumps(episode_to_record(replace(episode, is_validation=is_validation))).encode()
        for episode in (make_episode(0, 1.0, task="a"), make_episode(0, 0.0, task="a"))
    ]
    assert at_once(hub.add_episode(lines[0], group="a")) is None
    assert rewards([at_once(hub.add_episode(lines[1], group="a"))]) == [1.0]
    assert told(hub) == [0]


def test_an_episode_whose_attempt_waits_to_be_compared_is_answered_by_what_comes_of_that():
    hub = hub_with(judge := Slow())
    judge.may_answer.set()
    again = json.dumps(episode_to_record(failed(make_episode(0, 0.0, task="a")))).encode()

    async def bring():
        waiting = compared(hub, 0)
        await turns()
        waiting.append(asyncio.ensure_future(hub.add_episode(again, group="a")))
        await turns()
        return rewards(await asyncio.gather(*waiting, *compared(hub, 1, 2)))

    assert asyncio.run(bring()) == [0.0, 0.0, 1.0, 2.0]
    assert told(hub) == [0, 1, 2]


def test_so_many_groups_are_compared_at_once_as_episodes_may_run():
    hub = hub_with(judge := Slow(), rollout__max_env_worker=2)

    async def bring():
        waiting = [one for name in "abcde" for one in compared(hub, 0, 1, 2, group=name)]
        await turns()
        assert judge.num_asked == 2
        judge.may_answer.set()
        await asyncio.gather(*waiting)

    asyncio.run(bring())
    assert judge.most == 2
    assert len(hub.news().episodes) == 15


def test_a_handle_offers_all_that_the_hub_does_and_nothing_else():
    offered = {name for name, value in vars(HubHandle).items() if isinstance(value, property)}
    assert offered == {name for name in vars(Hub) if not name.startswith("_")}
