"""Real games of TextWorld, made in seconds and played in milliseconds."""

import pytest

pytest.importorskip("textworld")

from astuner.env_service.adapters.textworld_world import TextWorldWorld

pytestmark = pytest.mark.environments

QUEST = ("go east", "take type K keycard", "unlock type K chest with type K keycard")
"""Of the game of task 3."""


@pytest.fixture(scope="module")
def games(tmp_path_factory):
    return tmp_path_factory.mktemp("games")


@pytest.fixture
def world(games):
    world = TextWorldWorld(games=str(games))
    yield world
    world.close()


def begin(world, task="3"):
    return world.reset(seed=1, options={"task_id": task})


def test_a_game_begins_with_what_is_to_be_done_and_what_is_seen(world):
    observation, info = begin(world)
    assert "type K chest is unlocked" in observation
    assert "-= Basement =-" in observation
    assert "go east" in info["admissible_commands"]
    assert (info["score"], info["max_score"]) == (0, 1)


def test_a_quest_is_solved_for_its_points(world):
    begin(world)
    *before, last = [world.step(command) for command in QUEST]
    assert all(step[1:4] == (0, False, False) for step in before)
    assert last[1:4] == (1, True, False)
    assert world.evaluate() == world.evaluate(sparse=True) == 1


def test_what_a_screen_shows_besides_is_left_out(world):
    begin(world)
    said = [world.step(command)[0] for command in QUEST]
    assert said[0].startswith("-= Bedroom =-")
    assert not any(">" in text or "RESTART" in text for text in said)


@pytest.mark.parametrize(
    "said", ["I think.\n> Go east.", "look\n\ngo east\n", "`go east`", "**GO EAST**"]
)
def test_the_last_line_that_is_a_command_is_the_action(world, said):
    begin(world)
    assert world.step(said)[0].startswith("-= Bedroom =-")


@pytest.mark.parametrize(
    "said",
    [
        "",
        "fly",
        "restart",
        "quit",
        "look. quit",
        "undo",
        "xyz " * 5000,
        "ünïcode \x00 >",
        "go west",
    ],
)
def test_what_does_nothing_costs_a_step_and_is_told_what_would(games, said):
    world = TextWorldWorld(games=str(games), max_steps=2)
    begin(world)
    observation, reward, terminated, truncated, _ = world.step(said)
    assert "go east" in observation
    assert (reward, terminated, truncated) == (0, False, False)
    assert world.step(said)[3]
    world.close()


def test_another_instance_plays_the_same_game(world, games):
    first = begin(world)
    again = TextWorldWorld(games=str(games))
    assert begin(again) == first
    again.close()


def test_without_a_folder_the_game_is_made_anew_and_equal(world):
    own = TextWorldWorld()
    assert begin(own) == begin(world)
    assert own.step("go east") == world.step("go east")
    own.close()


def test_a_folder_of_games_holds_nothing_half_made(world, games):
    begin(world)
    assert {file.suffix for file in games.iterdir()} == {".json", ".z8"}


def test_a_task_that_is_no_number_is_not_there(world):
    with pytest.raises(LookupError, match="tasks are numbers"):
        begin(world, "house")


def test_its_splits_share_no_task():
    train, dev = TextWorldWorld.task_ids("train"), TextWorldWorld.task_ids("dev")
    assert not set(train) & set(dev)
