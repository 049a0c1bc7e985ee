"""Real games of TextArena as an agent meets them, alone, against others and against itself."""

import random
import re

import pytest

pytest.importorskip("textarena")

from astuner.env_service.adapters.textarena_world import TextArenaWorld

pytestmark = pytest.mark.environments


def begin(world, task="3", *, seed=5):
    return world.reset(seed=seed, options={"task_id": task})


def first_free_cell(observation):
    return re.findall(r"'(\[\d\])'", observation)[0]


def play(world, choose, task="3", *, seed=5):
    """The steps of a whole game."""
    observation, info = begin(world, task, seed=seed)
    steps = []
    while not steps or not (steps[-1][2] or steps[-1][3]):
        steps.append(world.step(choose(observation, info)))
        observation, info = steps[-1][0], steps[-1][4]
        assert len(steps) < 200
    return steps


def by_first_free_cell(observation, info):
    return first_free_cell(observation.rpartition("Available Moves")[2])


def test_a_player_reads_the_rules_once_and_then_what_is_new():
    world = TextArenaWorld()
    observation, info = begin(world)
    assert observation.startswith("You are Player 0 in Tic Tac Toe.")
    assert info == {"player": 0}
    answer, *_ = world.step("[4]")
    assert "You are Player 0 in Tic Tac Toe" not in answer
    assert re.search(r"\[Player 1\] \[\d\]", answer)
    assert "[Player 0] [4]" not in answer


def test_brackets_may_be_left_out_where_the_game_adds_them():
    world = TextArenaWorld()
    begin(world)
    assert "placed their symbol (O) in cell 4" in world.step("4")[0]


def test_a_won_game_ends_with_the_reward_of_our_player():
    world = TextArenaWorld(opponent=["[8]", "[7]", "[5]"])
    begin(world)
    world.step("[0]")
    world.step("[1]")
    observation, reward, terminated, truncated, info = world.step("[2]")
    assert (reward, terminated, truncated) == (1, True, False)
    assert "Player 0 has won!" in observation
    assert info["rewards"] == {"0": 1, "1": -1}
    assert world.evaluate(sparse=True) == 1


def test_a_lost_game_costs():
    world = TextArenaWorld(opponent=["[0]", "[1]", "[2]"])
    begin(world)
    world.step("[8]")
    world.step("[4]")
    assert world.step("[3]")[1:3] == (-1, True)
    assert world.evaluate(sparse=True) == 0


@pytest.mark.parametrize("said", ["", "what?", "[99]", "\x00", "[" * 10_000])
def test_a_move_that_is_none_is_answered_by_the_game_and_lost_the_second_time(said):
    world = TextArenaWorld()
    begin(world)
    observation, reward, terminated, *_ = world.step(said)
    assert "attempted an invalid move" in observation
    assert (reward, terminated) == (0, False)
    assert world.step(said)[1:3] == (-1, True)


def test_a_world_may_be_begun_again():
    world = TextArenaWorld(opponent=["[8]", "[7]", "[5]"])
    first = [begin(world), *(world.step(cell) for cell in ("[0]", "[1]", "[2]"))]
    assert [begin(world), *(world.step(cell) for cell in ("[0]", "[1]", "[2]"))] == first


def test_our_player_may_be_another_than_the_first():
    world = TextArenaWorld(player=1, opponent=["[4]"])
    observation, info = begin(world)
    assert "You are Player 1" in observation and "[Player 0] [4]" in observation
    assert info == {"player": 1}


def test_the_others_play_by_the_seed_of_the_episode():
    games = [play(TextArenaWorld(), by_first_free_cell, seed=seed) for seed in (1, 1, 2, 3, 4)]
    assert games[0] == games[1]
    assert any(game != games[0] for game in games[2:])


def test_games_played_side_by_side_do_not_disturb_one_another():
    alone = play(TextArenaWorld(id="SimpleNegotiation-v0"), lambda *_: "[Deny]")
    random.seed(99)
    outside = random.getstate()
    first, second = (TextArenaWorld(id="SimpleNegotiation-v0") for _ in range(2))
    begin(first)
    begin(second, "4", seed=6)
    for step in alone:
        assert first.step("[Deny]") == step
        second.step("[Deny]")
    assert random.getstate() == outside


def test_an_agent_may_play_against_itself_and_is_told_whose_turn_it_is():
    world = TextArenaWorld(opponent="self")
    observation, info = begin(world)
    assert info["player"] == 0
    assert observation.startswith("It is the turn of player 0.")
    observation, *_, info = world.step("[0]")
    assert info["player"] == 1
    assert observation.startswith("It is the turn of player 1.\nYou are Player 1")
    for cell in ("[8]", "[1]", "[7]"):
        world.step(cell)
    _, reward, terminated, _, info = world.step("[2]")
    assert (reward, terminated, info["rewards"]) == (1, True, {"0": 1, "1": -1})


def test_a_game_of_one_player():
    world = TextArenaWorld(id="GuessTheNumber-v0", num_players=1)
    guesses = iter(range(1, 21))
    *before, last = play(world, lambda *_: f"[{next(guesses)}]", task="3")
    assert all("higher" in step[0] for step in before)
    assert last[1:3] == (1, True)


def test_a_negotiation_is_played_to_its_end():
    *_, last = play(TextArenaWorld(id="SimpleNegotiation-v0"), lambda *_: "[Deny]")
    assert set(last[4]["rewards"]) == {"0", "1"}


def test_six_players_with_secret_roles_of_whom_one_is_ours():
    world = TextArenaWorld(id="SecretMafia-v0", num_players=6)
    *before, last = play(world, lambda *_: "[2]")
    assert all(step[4] == {"player": 0} for step in before)
    assert sorted(last[4]["roles"].values()).count("Mafia") == 2
    assert last[1] == last[4]["rewards"]["0"]


def test_six_players_who_are_all_ours():
    world = TextArenaWorld(id="SecretMafia-v0", num_players=6, opponent="self")
    *before, last = play(world, lambda observation, info: "[2]")
    assert {step[4]["player"] for step in before} == set(range(6))
    assert set(last[4]["rewards"].values()) == {1, -1}


def test_a_game_that_needs_data_says_which(monkeypatch, tmp_path):
    import nltk.data

    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    monkeypatch.setattr(nltk, "download", lambda *_, **__: False)
    with pytest.raises(RuntimeError, match=r"Wordle-v0 needs the NLTK data .*nltk.downloader"):
        TextArenaWorld(id="Wordle-v0", num_players=1)


def test_a_game_for_another_number_of_players_says_so():
    with pytest.raises(ValueError, match="does not begin with num_players=3"):
        begin(TextArenaWorld(num_players=3))


@pytest.mark.parametrize("options", [{"opponent": "gpt"}, {"opponent": []}, {"player": 2}])
def test_options_that_make_no_game_are_refused_at_once(options):
    with pytest.raises(ValueError, match="TicTacToe-v0: "):
        TextArenaWorld(**options)


def test_a_game_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="Tennis-v0"):
        TextArenaWorld(id="Tennis-v0")
