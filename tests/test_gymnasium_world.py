"""Worlds of Gymnasium as an agent meets them; docs/worlds.md says the same to users."""

import json

import pytest

pytest.importorskip("gymnasium")

from astuner.env_service.adapters.gymnasium_world import GymnasiumWorld

ICE = {"map_name": "4x4", "is_slippery": False}
"""The map of Gymnasium itself: SFFF, FHFH, FFFH, HFFG."""


def begin(world, task="0", *, seed=0):
    return world.reset(seed=seed, options={"task_id": task})


def test_a_frozen_lake_is_shown_with_its_rules_and_actions():
    observation, _ = begin(GymnasiumWorld(**ICE))
    rules, grid = observation.split("\n\n")
    assert "Actions: left, down, right, up." in rules
    assert grid == "P _ _ _\n_ O _ O\n_ _ _ O\nO _ _ G"


def test_an_agent_walks_to_the_goal_and_is_rewarded_there():
    world = GymnasiumWorld(**ICE)
    begin(world)
    for way in ("down", "down", "right", "down", "right"):
        _, reward, terminated, _, _ = world.step(way)
        assert (reward, terminated) == (0, False)
    observation, reward, terminated, truncated, _ = world.step("right")
    assert (reward, terminated, truncated) == (1, True, False)
    assert observation.endswith("O _ _ P")


def test_a_hole_ends_the_episode_without_reward():
    world = GymnasiumWorld(**ICE)
    begin(world)
    world.step("right")
    assert world.step("down")[1:4] == (0, True, False)


@pytest.mark.parametrize(
    "said",
    [
        "down",
        "Down.",
        "1",
        "I could go right, but I go down",
        "```right``` no: ```down```",
        "```down``` and not right",
        "```text\ndown\n```",
        "```down\n```",
        "not 2 but down",
        "down, of course: there are 3 holes",
    ],
)
def test_the_last_word_that_names_an_action_is_the_action(said):
    world = GymnasiumWorld(**ICE)
    begin(world)
    observation, *_ = world.step(said)
    assert observation.splitlines()[1] == "P O _ O"


@pytest.mark.parametrize(
    "said", ["", "north", "downtown", "4", "-1", "1.5", "```north``` down", "9" * 5000, "\x00"]
)
def test_what_names_no_action_costs_a_step_and_is_told_what_would(said):
    world = GymnasiumWorld(**ICE, max_episode_steps=2)
    begin(world)
    observation, reward, terminated, truncated, info = world.step(said)
    assert "left, down, right, up" in observation
    assert (reward, terminated, truncated, info["is_action"]) == (0, False, False, False)
    assert world.step(said)[3]


def test_the_time_limit_truncates():
    world = GymnasiumWorld(**ICE, max_episode_steps=2)
    begin(world)
    assert world.step("left")[2:4] == (False, False)
    assert world.step("left")[2:4] == (False, True)


def test_reaching_the_goal_with_the_last_step_is_no_truncation():
    world = GymnasiumWorld(**ICE, max_episode_steps=6)
    begin(world)
    for way in ("down", "down", "right", "down", "right"):
        world.step(way)
    assert world.step("right")[1:4] == (1, True, False)


def can_be_crossed(grid):
    cells = [row.split() for row in grid.splitlines()]
    size, reached, border = len(cells), set(), [(0, 0)]
    while border:
        row, column = border.pop()
        inside = 0 <= row < size and 0 <= column < size
        if inside and cells[row][column] != "O" and (row, column) not in reached:
            reached.add((row, column))
            border += [(row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)]
    return (size - 1, size - 1) in reached


def test_each_task_is_a_map_of_its_own_that_can_be_crossed():
    grids = set()
    for task in GymnasiumWorld.task_ids("train", num_tasks=30):
        world = GymnasiumWorld(map_size=5, hole_share=0.4)
        observation, _ = begin(world, task)
        grid = observation.split("\n\n")[1]
        assert can_be_crossed(grid)
        grids.add(grid)
    assert len(grids) == 30


def test_a_task_keeps_its_map_whatever_the_episodes_seed():
    first = begin(GymnasiumWorld(map_size=5), "7", seed=1)
    assert begin(GymnasiumWorld(map_size=5), "7", seed=2) == first


def slides(seed):
    world = GymnasiumWorld(map_size=8, hole_share=0.0)
    begin(world, "3", seed=seed)
    return [world.step("down")[0] for _ in range(20)]


def test_the_seed_of_the_episode_settles_how_one_slips():
    assert slides(1) == slides(1)
    assert slides(1) != slides(2)


def test_no_task_of_a_split_stands_in_another():
    splits = [GymnasiumWorld.task_ids(split, num_tasks=500) for split in ("train", "dev", "test")]
    assert [len(split) for split in splits] == [500, 100, 100]
    assert len(set().union(*splits)) == 700


def test_a_split_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="no split 'golden'"):
        GymnasiumWorld.task_ids("golden")


@pytest.mark.parametrize("task", ["seven", "-1", "1" * 30, ""])
def test_a_task_that_is_no_number_is_not_there(task):
    with pytest.raises(LookupError, match="tasks are numbers") as caught:
        begin(GymnasiumWorld(), task)
    assert type(caught.value) is LookupError


def test_a_taxi_says_where_everybody_is():
    observation, info = begin(GymnasiumWorld(id="Taxi-v4"), "3")
    assert "Actions: south, north, east, west, pickup, dropoff." in observation
    assert "|R: |T: :G|" in observation
    assert "The passenger is waiting at R and wants to go to Y." in observation
    assert info["action_mask"] == [1, 0, 1, 0, 0, 0]


def test_a_taxi_is_driven_by_words():
    world = GymnasiumWorld(id="Taxi-v4")
    begin(world, "3")
    ways = "south south west west north north pickup south south south south dropoff"
    *_, arrived = [world.step(way) for way in ways.split()]
    assert arrived[1:3] == (20, True)


def test_colours_of_a_terminal_are_no_text():
    world = GymnasiumWorld(id="Taxi-v4")
    said = [begin(world, "3")[0], *(world.step(way)[0] for way in ("south", "west"))]
    assert not any("\x1b" in text for text in said)


def test_actions_without_names_are_numbers():
    world = GymnasiumWorld(id="CartPole-v1")
    observation, _ = begin(world)
    assert "the numbers 0 to 1" in observation
    assert len(json.loads(observation.split("\n\n")[1])) == 4
    assert not world.step("7")[4]["is_action"]
    assert world.step("I push to the right: 1")[4]["is_action"]


def test_actions_may_be_given_names():
    world = GymnasiumWorld(id="CartPole-v1", actions=["push left", "push right"])
    assert "push left, push right" in begin(world)[0]
    assert world.step("let us push right")[4]["is_action"]


def test_names_that_are_too_few_are_refused_at_once():
    with pytest.raises(ValueError, match="1 names of actions, up; its action space is Discrete"):
        GymnasiumWorld(id="CartPole-v1", actions=["up"])


@pytest.mark.parametrize("said", ["[0.5]", "so: ```json\n[0.5]\n```", "I choose [0.5]"])
def test_an_action_that_is_no_choice_is_json(said):
    world = GymnasiumWorld(id="MountainCarContinuous-v0")
    assert "JSON" in begin(world)[0]
    assert world.step(said)[4]["is_action"]


@pytest.mark.parametrize(
    "said", ["0.5", "[5]", "[NaN]", "[[0.5]]", '{"a": 1}', "[1e999]", "[" * 100_000, '["a"]', "[]"]
)
def test_json_that_is_no_action_is_told_so(said):
    world = GymnasiumWorld(id="MountainCarContinuous-v0")
    begin(world)
    observation, *_, info = world.step(said)
    assert "No action was found" in observation
    assert not info["is_action"]


def test_what_is_known_besides_is_plain():
    world = GymnasiumWorld(id="Blackjack-v1")
    observation, info = begin(world, "1")
    assert isinstance(json.loads(observation.split("\n\n")[1]), list)
    json.dumps(info)
    json.dumps(world.step("stick")[4])


def test_an_environment_that_is_not_there_is_named_before_an_episode():
    import gymnasium

    with pytest.raises(gymnasium.error.NameNotFound, match="FrozenLike"):
        GymnasiumWorld(id="FrozenLike-v1")


@pytest.mark.parametrize(
    "options", [{"map_size": 1}, {"map_size": 99}, {"map_size": 4, "hole_share": 0.9}]
)
def test_a_map_that_cannot_be_made_is_refused(options):
    with pytest.raises(ValueError, match="sizes are 2 to 16"):
        GymnasiumWorld(**options)


def test_a_map_size_is_for_lakes_only():
    with pytest.raises(ValueError, match="map_size is for FrozenLake"):
        GymnasiumWorld(id="Taxi-v4", map_size=4)
