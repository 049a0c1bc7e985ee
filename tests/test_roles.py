"""Rewards for each agent: who is compared with whom, and which sequences get which advantage."""

from types import SimpleNamespace

import pytest

from astuner.algorithm.advantage import (
    ADVANTAGES,
    dr_grpo,
    grpo,
    reinforce_plus_plus,
    reinforce_plus_plus_baseline,
)
from astuner.algorithm.batch import (
    divergence_penalty,
    is_useful,
    length_penalty,
    make_batch,
)
from astuner.algorithm.step_metrics import rollout_metrics
from astuner.trajectory.episode import Episode, Group
from astuner.trajectory.merge import merge_calls
from astuner.trajectory.samples import make_samples
from astuner.types import Task, Verdict, WorkflowOutput
from tests.chats import make_call

TASK = Task(main_query="Play.", task_id="t")
WOLF, SEER = ("wolf_1", "wolf"), ("seer_1", "seer")


def make_episode(attempt, rewards, calls=None, *, task="t", source="workflow", overflowed=()):
    """An episode of a wolf and a seer with one call each; `rewards` is a number or a mapping."""
    calls = calls or [call_of(WOLF, 10), call_of(SEER, 20)]
    by_role = rewards if isinstance(rewards, dict) else {}
    mean = sum(by_role.values()) / len(by_role) if by_role else rewards
    return Episode(
        episode_id=f"{task}-{attempt}",
        task=TASK,
        step=1,
        attempt=attempt,
        is_validation=False,
        calls=tuple(calls),
        sequences=tuple(merge_calls(calls)),
        verdict=Verdict(reward=mean, is_success=mean > 0, source=source, rewards=by_role),
        failure=None,
        agents={},
        output=WorkflowOutput(),
        overflowed=frozenset(overflowed),
        madness=None,
        seconds=1.0,
    )


def call_of(agent, prompt_id, num_tokens=2, *, is_trained=True):
    name, tag = agent
    return make_call(
        [prompt_id, 1], [7] * num_tokens, agent_name=name, target_tag=tag, is_trained=is_trained
    )


def make_group(*episodes):
    return Group(task=TASK, episodes=episodes)


def batch(*groups, advantage=dr_grpo, max_sequences=30, **options):
    return make_batch(groups, advantage=advantage, max_sequences=max_sequences, **options)


def advantages(made):
    """(episode, first prompt token) -> advantage."""
    return {(sample.episode_id, sample.ids[0]): sample.advantage for sample in made.samples}


def test_each_role_is_compared_with_itself_over_the_group():
    group = make_group(
        make_episode(0, {"wolf": 1.0, "seer": 0.0}),
        make_episode(1, {"wolf": 0.0, "seer": 0.5}),
    )
    assert advantages(batch(group)) == {
        ("t-0", 10): 0.5,
        ("t-1", 10): -0.5,
        ("t-0", 20): -0.25,
        ("t-1", 20): 0.25,
    }


def test_one_number_gives_all_agents_of_an_episode_the_same_advantage():
    made = batch(make_group(make_episode(0, 1.0), make_episode(1, 0.0)))
    values = [sample.advantage for sample in made.samples]
    assert values == [0.5, 0.5, -0.5, -0.5]


def test_an_agents_own_name_goes_before_its_tag():
    other_wolf = ("wolf_2", "wolf")
    calls = [call_of(WOLF, 10), call_of(other_wolf, 30)]
    group = make_group(
        make_episode(0, {"wolf_1": 1.0, "wolf": 0.0}, calls),
        make_episode(1, {"wolf_1": 0.0, "wolf": 4.0}, calls),
    )
    assert advantages(batch(group)) == {
        ("t-0", 10): 0.5,
        ("t-1", 10): -0.5,
        ("t-0", 30): -2.0,
        ("t-1", 30): 2.0,
    }


def test_a_role_is_never_standardized_together_with_another():
    group = make_group(
        make_episode(0, {"wolf": 1.0, "seer": 100.0}),
        make_episode(1, {"wolf": 0.0, "seer": 300.0}),
    )
    found = advantages(batch(group, advantage=reinforce_plus_plus))
    assert found["t-0", 10] == pytest.approx(-found["t-1", 10])
    assert abs(found["t-0", 10]) == pytest.approx(abs(found["t-0", 20]), rel=1e-4)


def test_a_role_with_one_reward_is_left_out_and_the_others_are_trained():
    group = make_group(
        make_episode(0, {"wolf": 1.0, "seer": 0.0}),
        make_episode(1, {"wolf": 0.0}, [call_of(WOLF, 10)]),
    )
    made = batch(group)
    assert advantages(made) == {("t-0", 10): 0.5, ("t-1", 10): -0.5}
    assert made.num_small_groups == made.num_flat_groups == 0


def test_an_episode_ended_by_madness_counts_for_every_role_that_spoke_in_it():
    group = make_group(
        make_episode(0, {"wolf": 1.0, "seer": 1.0}),
        make_episode(1, -1.0, [call_of(WOLF, 10)], source="madness"),
    )
    assert advantages(batch(group)) == {("t-0", 10): 1.0, ("t-1", 10): -1.0}


def test_a_group_is_flat_when_no_trained_role_has_spread():
    opponent = call_of(SEER, 20, is_trained=False)
    calls = [call_of(WOLF, 10), opponent]
    group = make_group(
        make_episode(0, {"wolf": 1.0, "seer": 0.0}, calls),
        make_episode(1, {"wolf": 1.0, "seer": 5.0}, calls),
    )
    made = batch(group)
    assert (made.samples, made.num_flat_groups, is_useful(group)) == ((), 1, False)


def attempts(rewards, task="t"):
    return make_group(*[make_episode(i, reward, task=task) for i, reward in enumerate(rewards)])


@pytest.mark.parametrize("name", ADVANTAGES)
def test_a_reward_at_the_mean_of_its_group_is_trained_as_one_beside_it(name):
    at_the_mean, beside_it = (
        batch(attempts([0.0, middle, 1.0]), advantage=ADVANTAGES[name]) for middle in (0.5, 0.4)
    )
    assert {s.episode_id for s in at_the_mean.samples} == {"t-0", "t-1", "t-2"}
    assert advantages(at_the_mean)["t-1", 10] == 0
    assert [s.ids for s in at_the_mean.samples] == [s.ids for s in beside_it.samples]
    assert at_the_mean.num_flat_groups == 0


def test_a_role_that_is_flat_in_one_group_counts_in_another():
    flat = make_group(*[make_episode(i, {"wolf": 1.0, "seer": i}) for i in range(3)])
    mixed = make_group(*[make_episode(i, {"wolf": i, "seer": 2.0}, task="u") for i in range(3)])
    found = set(advantages(batch(flat, mixed)))
    assert found == {(f"t-{i}", 20) for i in range(3)} | {(f"u-{i}", 10) for i in range(3)}


def test_a_flat_group_at_the_mean_of_the_step_counts_where_groups_are_compared():
    groups = attempts([0.5, 0.5]), attempts([0.0, 1.0], task="u")
    found = advantages(batch(*groups, advantage=reinforce_plus_plus))
    assert len(found) == 8 and found["t-0", 10] == 0
    all_flat = batch(attempts([0.5, 0.5]), attempts([0.5, 0.5], "u"), advantage=reinforce_plus_plus)
    assert not all_flat.samples


def test_rounding_makes_no_sample_of_a_flat_group():
    groups = attempts([0.3, 0.3]), attempts([0.1, 0.2, 0.6], task="u"), attempts([0.7, 0.2], "v")
    made = batch(*groups, advantage=reinforce_plus_plus_baseline)
    assert {s.episode_id[0] for s in made.samples} == {"u", "v"}


def test_a_function_that_gives_a_flat_group_a_value_trains_it_whole():
    def is_best(groups):
        return [[float(reward == max(group)) for reward in group] for group in groups]

    found = advantages(batch(attempts([1.0, 1.0]), attempts([0.0, 1.0], "u"), advantage=is_best))
    assert found["u-0", 10] == 0 and found["t-0", 10] == 1 and len(found) == 8


def test_an_untrained_agent_is_in_the_record_and_never_in_a_sample():
    opponent = call_of(SEER, 20, is_trained=False)
    calls = [call_of(WOLF, 10), opponent]
    episodes = [make_episode(0, 1.0, calls), make_episode(1, 0.0, calls)]
    assert [s.num_trained for s in episodes[0].sequences] == [2, 0]
    assert {ids for _, ids in advantages(batch(make_group(*episodes)))} == {10}


def test_a_penalty_is_taken_off_every_role():
    group = make_group(make_episode(0, {"wolf": 1.0}), make_episode(1, {"wolf": 1.0}))
    found = advantages(batch(group, penalty_of=lambda e, _agents: 1.0 if e.attempt else 0.0))
    assert found == {("t-0", 10): 0.5, ("t-1", 10): -0.5}


def test_the_overlong_penalty_is_of_the_agents_own_words():
    """Both agents have room for 10 tokens each, of which the last 4 are penalized."""
    algorithm = SimpleNamespace(overlong_buffer_length=4, overlong_penalty_factor=2.0)
    long = [call_of(WOLF, 10, 6), call_of(SEER, 20, 8)]
    by_role = {"wolf": 1.0, "seer": 1.0}
    group = make_group(make_episode(0, by_role, long), make_episode(1, by_role))
    penalty_of = length_penalty(algorithm, max_tokens=10)
    found = advantages(batch(group, penalty_of=penalty_of))
    assert found == {("t-0", 20): -0.5, ("t-1", 20): 0.5}, "six tokens of the wolf are free"


def test_the_overlong_penalty_is_of_the_longest_sequence_of_an_agent():
    """Room is counted for each sequence, so two short conversations are no long one."""
    algorithm = SimpleNamespace(overlong_buffer_length=4, overlong_penalty_factor=2.0)
    penalty_of = length_penalty(algorithm, max_tokens=10)
    rewards = {"wolf": 1.0, "seer": 1.0}
    twice = [call_of(WOLF, 10, 6), call_of(WOLF, 11, 6), call_of(SEER, 20)]
    group = make_group(make_episode(0, rewards, twice), make_episode(1, rewards))
    assert not batch(group, penalty_of=penalty_of).samples
    first = call_of(WOLF, 10, 6)
    joined = make_call([*first.ids, 2], [7, 7], agent_name=WOLF[0], target_tag=WOLF[1])
    group = make_group(make_episode(0, rewards, [first, joined]), make_episode(1, rewards))
    assert set(advantages(batch(group, penalty_of=penalty_of)).values()) == {-0.5, 0.5}


def test_who_runs_out_of_room_pays_for_it_alone():
    algorithm = SimpleNamespace(overlong_buffer_length=4, overlong_penalty_factor=2.0)
    penalty_of = length_penalty(algorithm, max_tokens=10)
    rewards = {"wolf": 1.0, "seer": 1.0}
    group = make_group(make_episode(0, rewards), make_episode(1, rewards, overflowed=[WOLF]))
    found = advantages(batch(group, penalty_of=penalty_of))
    assert found == {("t-0", 10): 1.0, ("t-1", 10): -1.0}
    untrained = [call_of(WOLF, 10, is_trained=False), call_of(SEER, 20)]
    lost = make_episode(1, 1.0, untrained, overflowed=[WOLF])
    assert not batch(make_group(make_episode(0, 1.0), lost), penalty_of=penalty_of).samples


def test_each_role_pays_for_its_own_divergence():
    rewards = {"wolf": 1.0, "seer": 1.0}
    group = make_group(make_episode(0, rewards), make_episode(1, rewards))
    penalty_of = divergence_penalty({("t-0", 0): 0.5, ("t-0", 1): 0.0, ("t-1", 0): 0.0})
    assert advantages(batch(group, penalty_of=penalty_of)) == {
        ("t-0", 10): -0.25,
        ("t-1", 10): 0.25,
    }


def test_the_overlong_penalty_of_a_shared_reward_is_that_of_the_longest_trained_agent():
    algorithm = SimpleNamespace(overlong_buffer_length=4, overlong_penalty_factor=2.0)
    penalty_of = length_penalty(algorithm, max_tokens=10)
    calls = [call_of(WOLF, 10, 6), call_of(SEER, 20, 8, is_trained=False)]
    group = make_group(make_episode(0, 1.0, calls), make_episode(1, 1.0))
    assert not batch(group, penalty_of=penalty_of).samples
    calls = [call_of(WOLF, 10, 6), call_of(SEER, 20, 8)]
    group = make_group(make_episode(0, 1.0, calls), make_episode(1, 1.0))
    assert set(advantages(batch(group, penalty_of=penalty_of)).values()) == {-0.5, 0.5}


def test_whole_rewards_give_what_they_gave_without_roles():
    rewards = [1.0, 0.0, 0.25]
    group = make_group(*(make_episode(i, reward) for i, reward in enumerate(rewards)))
    found = [s.advantage for s in batch(group, advantage=grpo).samples]
    assert found[::2] == found[1::2] == grpo([rewards])[0]


def test_places_go_to_the_agents_by_turns_and_to_their_longest_sequences_first():
    calls = [
        call_of(WOLF, 10, 9),
        call_of(WOLF, 11, 8),
        call_of(WOLF, 12, 7),
        call_of(SEER, 20, 1),
        call_of(SEER, 21, 2),
    ]
    episode = make_episode(0, 1.0, calls)

    def kept(places):
        samples, dropped = make_samples(episode, advantage_of=lambda _: 1.0, max_sequences=places)
        assert dropped == 5 - len(samples)
        return [sample.ids[0] for sample in samples]

    assert kept(1) == [10]
    assert kept(2) == [10, 21]
    assert kept(3) == [10, 11, 21]
    assert kept(4) == [10, 11, 20, 21]
    assert kept(9) == [10, 11, 12, 20, 21]


def test_metrics_show_the_mean_reward_of_each_role_beside_the_mean_of_all():
    group = make_group(make_episode(0, {"wolf": 1.0, "seer": 0.0}), make_episode(1, {"wolf": 0.0}))
    metrics = rollout_metrics([group], seconds=1.0)
    assert (metrics["reward/wolf"], metrics["reward/seer"]) == (0.5, 0.0)
    assert metrics["reward/mean"] == 0.25
