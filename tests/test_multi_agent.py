"""Several agents in one episode: who is trained, who answers the others, and whose reward it is."""

import asyncio

import pytest

from astuner.errors import ConfigError, EngineError, WorkflowError
from astuner.inference.request import ChatRequest
from astuner.inference.shapes.routed import RoutedChat
from astuner.trajectory.merge import merge_calls
from astuner.tuner import ModelTuner
from astuner.types import Task, WorkflowOutput, WorkflowTask
from astuner.workflow import Workflow
from tests.chats import make_chat
from tests.episodes import make_rules, run_episode
from tests.fakes import ScriptedEngine

TASK = Task(main_query="Play.", task_id="t")
AGENTS = {"wolf_1": "wolf", "wolf_2": "wolf", "seer_1": "seer"}


def say(tuner, name, text="hello", debug_model=None):
    """One call of an agent, by the way that every shape of the model takes."""
    tuner.as_agentscope_model(name, AGENTS.get(name, "other"), debug_model)
    messages = [{"role": "user", "content": text}]
    request = ChatRequest(messages=messages, agent_name=name, target_tag=AGENTS.get(name, "other"))
    return tuner._chat.complete(request)


def play(reward, *, names=tuple(AGENTS), targets=None, debug_model=None):
    """A workflow class whose agents speak once each and whose reward is given."""

    class Game(Workflow):
        name: str = "game"
        trainable_targets: list[str] | None = targets

        async def execute(self, workflow_task, model_tuner):
            for name in names:
                await say(model_tuner, name, debug_model=debug_model)
            return WorkflowOutput(reward=reward)

    return Game


def settings(workflow, *, policy=None, reference=None, judge=None, **changes):
    policy = policy or ScriptedEngine(lambda _: "policy")
    reference = reference or ScriptedEngine(lambda _: "reference")

    def over(engine, recorder, **options):
        chat = make_chat(engine, recorder=recorder, **options)
        return chat

    def make_untrained(recorder, _task, name):
        if name != "reference":
            raise WorkflowError(f"no model {name}")
        return over(reference, recorder, is_trained=False)

    return make_rules(
        make_workflow=workflow,
        make_chat=lambda recorder, _task: over(policy, recorder),
        judge=judge,
        config=None,
        timeout_seconds=5.0,
        judge_timeout_seconds=5.0,
        madness_reward=-1.0,
        **{"make_untrained": make_untrained, **changes},
    )


def attempt():
    return WorkflowTask(task=TASK, episode_id="e", step=1, attempt=0, is_validation=False)


def run(workflow, **options):
    return asyncio.run(run_episode(attempt(), settings(workflow, **options)))


def test_without_targets_every_agent_is_trained():
    episode = run(play(1.0))
    assert [sequence.num_trained > 0 for sequence in episode.sequences] == [True, True, True]


def test_an_agent_outside_the_targets_is_answered_by_the_reference_and_never_trained():
    policy = ScriptedEngine(lambda _: "policy")
    reference = ScriptedEngine(lambda _: "reference")
    workflow = play(1.0, targets=["wolf"], debug_model="reference")
    episode = run(workflow, policy=policy, reference=reference)
    assert (len(policy.seen), len(reference.seen)) == (2, 1)
    assert [call.reply["content"] for call in episode.calls] == ["policy", "policy", "reference"]
    assert [sequence.num_trained > 0 for sequence in episode.sequences] == [True, True, False]


def test_a_call_over_http_needs_no_registration_to_miss_the_policy():
    """A gateway calls the chat by the name and tag of a key."""
    policy = ScriptedEngine(lambda _: "policy")
    chat = make_chat(policy)
    untrained = make_chat(["other"], recorder=chat.recorder, is_trained=False)
    routes = RoutedChat(
        chat,
        trainable_targets=["wolf"],
        make_untrained=lambda name: untrained,
        untrained_model="reference",
    )
    request = ChatRequest(
        messages=[{"role": "user", "content": "?"}], agent_name="seer_1", target_tag="seer"
    )
    assert asyncio.run(routes.complete(request)).text == "other"
    assert policy.seen == [] and not chat.recorder.calls[0].is_trained


def test_the_targets_of_the_settings_go_before_those_of_the_workflow():
    workflow = play(1.0, targets=["wolf"], debug_model="reference")
    episode = run(workflow, trainable_targets=("seer",))
    trained = {s.target_tag for s in episode.sequences if s.num_trained}
    assert trained == {"seer"}


def test_an_untrained_agent_takes_the_model_of_the_settings_when_it_names_none():
    episode = run(play(1.0, targets=["wolf"]), untrained_model="reference")
    assert episode.calls[2].reply["content"] == "reference"


def test_an_untrained_agent_without_a_model_is_told_what_it_can_have():
    with pytest.raises(ConfigError, match=r"'seer_1': .*set rollout\.untrained_model\.model"):
        run(play(1.0, targets=["wolf"]))


def test_the_tuned_model_cannot_be_the_debug_model_of_an_untrained_agent():
    tuner = ModelTuner(RoutedChat(make_chat([]), trainable_targets=["wolf"]))
    with pytest.raises(WorkflowError, match="is the model that is tuned"):
        tuner.as_agentscope_model("seer_1", "seer", debug_model=tuner)


def test_an_empty_list_of_targets_stops_the_run_and_names_the_tags_there_are():
    with pytest.raises(ConfigError, match=r"trainable_targets is empty.* tags seen are seer, wolf"):
        run(play(1.0, targets=[]), untrained_model="reference")
    with pytest.raises(ConfigError, match=r"its target tag 'wolf' is not among .*\[\]"):
        run(play(1.0, targets=[]))


def roll_out(workflow, num_repeat=4, **options):
    pool = settings(workflow, **options).pool(max_parallel=1, max_failed_fraction=0.5)
    seen = []

    async def go():
        for step in (1, 2):
            await pool.run(
                [TASK],
                num_repeat=num_repeat,
                step=step,
                is_validation=False,
                on_episode=seen.append,
            )

    return go, seen


def test_targets_that_no_agent_has_stop_the_run_after_a_few_episodes():
    workflow = play(1.0, targets=["wolff"], debug_model="reference")
    go, seen = roll_out(workflow, num_repeat=40)
    with pytest.raises(ConfigError, match=r"no agent has the tag 'wolff'.*seen are seer, wolf"):
        asyncio.run(go())
    assert len(seen) < 10


def test_a_target_that_no_episode_of_the_first_batch_has_stops_the_run_after_it():
    workflow = play(1.0, targets=["wolf", "witch"], debug_model="reference")
    go, seen = roll_out(workflow)
    with pytest.raises(ConfigError, match="no agent has the tag 'witch'"):
        asyncio.run(go())
    assert len(seen) == 4


def test_a_target_may_be_absent_from_some_episodes():
    targets = ["wolf", "seer"]

    class Shuffled(Workflow):
        name: str = "shuffled"
        trainable_targets: list[str] | None = targets

        async def execute(self, workflow_task, model_tuner):
            await say(model_tuner, "seer_1" if workflow_task.attempt else "wolf_1")
            return WorkflowOutput(reward=1.0)

    go, seen = roll_out(Shuffled)
    asyncio.run(go())
    assert len(seen) == 8


def test_a_mapping_gives_each_agent_its_own_reward_and_the_verdict_the_mean_of_the_trained():
    reward = {"wolf": 1.0, "seer": -1.0}
    whole = run(play(reward)).verdict
    assert (whole.reward, dict(whole.rewards)) == (0.0, reward)
    of_wolves = run(play(reward, targets=["wolf"], debug_model="reference")).verdict
    assert (of_wolves.reward, of_wolves.is_success) == (1.0, True)


@pytest.mark.parametrize(
    ("reward", "said"),
    [
        ({"wolf": 1.0, "sear": 0.0}, "['sear'] are no agent's name or target tag"),
        ({"wolf": 1.0, "sear": 0.0}, "seer_1 (target tag seer), wolf_1 (target tag wolf)"),
        ({"wolf": 1.0}, "none for seer_1 (target tag seer), which is trained"),
        ({"wolf": float("nan"), "seer": 1.0}, "of 'wolf' is nan; expected a finite number"),
        ({}, "has the keys []"),
    ],
)
def test_a_reward_that_is_missing_or_of_nobody_fails_the_episode(reward, said):
    episode = run(play(reward))
    assert episode.verdict is None and said in episode.failure.message


@pytest.mark.parametrize("name", ["part/a", "mean", "success_rate", "steps_mean"])
def test_a_reward_for_an_agent_whose_name_is_a_metric_fails_the_episode(name):
    named = run(play({name: 1.0}, names=(name,)))
    assert f"has the key '{name}', which metrics use already" in named.failure.message
    assert run(play(1.0, names=(name,))).verdict.reward == 1.0


def test_an_untrained_agent_needs_no_reward():
    episode = run(play({"wolf": 0.5}, targets=["wolf"], debug_model="reference"))
    assert episode.verdict.reward == 0.5


def test_a_judge_may_give_rewards_by_agent_too():
    class Judge:
        def compute_reward(self, workflow_task, workflow_output):
            return {"wolf": 1.0, "seer": 0.0}, True

    episode = run(play(None), judge=Judge())
    assert (episode.verdict.source, episode.verdict.rewards["wolf"]) == ("judge", 1.0)


def test_agents_that_say_the_same_are_never_merged():
    chat = make_chat(lambda _: "yes")
    tuner = ModelTuner(chat)

    async def go():
        for name in ("wolf_1", "wolf_2"):
            await say(tuner, name)

    asyncio.run(go())
    assert [s.agent_name for s in merge_calls(chat.recorder.calls)] == ["wolf_1", "wolf_2"]


def test_the_madness_of_an_untrained_agent_is_not_the_policys():
    reference = ScriptedEngine(lambda _: "reference")
    seen = []

    def find(reply):
        seen.append(reply.parsed.text)

    chat = make_chat(lambda _: "policy", find_madness=find)
    other = make_chat(reference, recorder=chat.recorder, is_trained=False)
    routes = RoutedChat(chat, trainable_targets=["wolf"], make_untrained=lambda _: other)
    tuner = ModelTuner(routes)

    async def go():
        await say(tuner, "wolf_1")
        await say(tuner, "seer_1", debug_model="reference")

    asyncio.run(go())
    assert seen == ["policy"]


def test_a_run_without_other_models_says_so():
    tuner = ModelTuner(RoutedChat(make_chat([]), trainable_targets=["wolf"]))
    with pytest.raises(ConfigError, match="no models beside the one that is tuned"):
        tuner.as_agentscope_model("seer_1", "seer", debug_model="reference")


def test_a_closed_episode_answers_no_agent():
    chat = make_chat(lambda _: "yes")
    chat.recorder.ended = "finished"
    with pytest.raises(Exception, match="the episode has ended") as caught:
        asyncio.run(say(ModelTuner(chat), "wolf_1"))
    assert not isinstance(caught.value, EngineError)
