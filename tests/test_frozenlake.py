"""The frozen lake of the tutorial: whole episodes in its own environment and in one that is served,
by an agent that goes where it reads that it may."""

import asyncio
import re
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("gymnasium")
pytest.importorskip("agentscope")  # whose ChatResponse the model's replies are

from omegaconf import OmegaConf

from astuner.config.load import load_config
from astuner.env_service.adapters.gymnasium_world import GymnasiumWorld
from astuner.env_service.client import EnvServiceEnvironments
from astuner.env_service.server.serve import serve_environments
from astuner.env_service.server.world import World
from astuner.rollout.environment_around import EnvironmentAround
from astuner.run_dir import RunDir, read_json_lines
from astuner.task_judge.env_service_as_judge import EnvServiceJudge
from astuner.types import Task
from tests.env_servers import settings as server_settings
from tests.episodes import run_episode
from tests.fakes import ScriptedEngine
from tests.test_env_client import section
from tests.test_rollout import attempt, settings
from tutorial.example_frozenlake.frozenlake import (
    FrozenLake,
    FrozenLakeWorkflow,
    ServedFrozenLakeWorkflow,
    read_action,
)

FOLDER = Path(__file__).parents[1] / "tutorial" / "example_frozenlake"
SIZE = 3


def shortest_way(grid):
    """The first move of a shortest way from P to G."""
    cells = [row.split() for row in grid.splitlines()]
    ways = {"left": (0, -1), "down": (1, 0), "right": (0, 1), "up": (-1, 0)}
    (start,) = [(r, c) for r, row in enumerate(cells) for c, cell in enumerate(row) if cell == "P"]
    border, seen = [(start, None)], {start}
    for (row, column), first in border:
        if cells[row][column] == "G":
            return first
        for way, (down, right) in ways.items():
            there = row + down, column + right
            is_inside = all(0 <= place < len(cells) for place in there)
            if is_inside and there not in seen and cells[there[0]][there[1]] != "O":
                seen.add(there)
                border.append((there, first or way))
    raise AssertionError("no way to the goal")


def looking(prompt):
    """Reads the map of the last message."""
    (*_, grid) = re.findall(r"(?:[P_OG](?: [P_OG])+\n?){2,}", prompt)
    return f"Let me see. ```{shortest_way(grid.strip())}```"


def configured(**frozen_lake):
    lake = {"frozen_lake_size": SIZE, "is_slippery": False, **frozen_lake}
    rollout = {"multi_turn": {"max_steps": 8}}
    return OmegaConf.create({"astuner": {"rollout": rollout}, "frozen_lake": lake})


def play(engine, *, number=7, is_validation=False, index=0, **frozen_lake):
    rules = settings(FrozenLakeWorkflow, engine=ScriptedEngine(engine))
    rules = replace(rules, episode=replace(rules.episode, config=configured(**frozen_lake)))
    task = Task(main_query="", task_id=str(number), metadata={"random_number": number})
    asked = attempt(task=task, attempt=index, is_validation=is_validation)
    return asyncio.run(run_episode(asked, rules))


@pytest.mark.parametrize("number", range(5))
def test_an_agent_that_looks_reaches_the_goal(number):
    episode = play(looking, number=number)
    assert (episode.verdict.reward, episode.verdict.is_success) == (1, True)
    assert len(episode.calls) >= 4


@pytest.mark.parametrize("shows_examples", [True, False])
def test_the_turns_of_an_episode_are_one_sequence(shows_examples):
    episode = play(looking, shows_examples=shows_examples)
    assert len(episode.sequences) == 1
    assert sum(span.is_trained for span in episode.sequences[0].spans) == len(episode.calls)


def test_an_agent_may_see_each_map_without_what_was_before():
    episode = play(looking, turns_remembered=0)
    assert episode.verdict.reward == 1
    assert {len(call.messages) for call in episode.calls} == {2}
    assert len(episode.sequences) == len(episode.calls)


def test_an_agent_may_remember_the_last_turns():
    episode = play(looking, turns_remembered=1)
    assert [len(call.messages) for call in episode.calls] == [2, 4, 4, 4][: len(episode.calls)]


def test_an_agent_that_does_not_move_has_used_up_its_steps():
    episode = play(lambda prompt: "hm")
    assert (episode.verdict.reward, episode.verdict.is_success) == (0, False)
    assert len(episode.calls) == 8


def shown_at_first(number):
    return FrozenLake(size=SIZE, is_slippery=False, map_seed=number, seed=0).show()


def test_an_agent_that_falls_in_gets_nothing():
    number = next(n for n in range(99) if "hole: right" in shown_at_first(n))
    episode = play(lambda prompt: "right", number=number)
    assert (episode.verdict.reward, len(episode.calls)) == (0, 1)


def test_who_does_not_look_crosses_about_half_of_the_maps():
    def crosses(number):
        lake = FrozenLake(size=SIZE, is_slippery=False, map_seed=number, seed=0)
        steps = [lake.step(way) for way in ("right", "right", "down", "down")]
        return (1.0, True) in steps and (0.0, True) not in steps

    assert 0.4 < sum(map(crosses, range(200))) / 200 < 0.6


def test_validation_has_maps_of_its_own():
    def first_map(**changes):
        return play(looking, **changes).calls[0].messages[-1]["content"]

    trained = [first_map(number=number) for number in range(5)]
    held_out = [first_map(number=number, is_validation=True) for number in range(5)]
    assert trained != held_out


def test_attempts_at_one_map_slip_differently_and_each_always_equally():
    def way_of(index):
        episode = play(lambda prompt: "down", index=index, number=3, is_slippery=True)
        return [call.messages[-1]["content"] for call in episode.calls]

    ways = [way_of(index) for index in range(8)]
    assert ways == [way_of(index) for index in range(8)]
    assert len({tuple(way) for way in ways}) > 1


@pytest.mark.parametrize(
    ("said", "action"),
    [
        ("```up```", "up"),
        ("first ```left```, no: ```Down```", "down"),
        ("I go right", "right"),
        ("```up``` and then right", "up"),
        ("north", None),
        ("", None),
    ],
)
def test_the_last_fenced_word_is_the_action(said, action):
    assert read_action(said) == action


def test_episodes_in_a_served_environment():
    """Through the real server, its processes, the client and the judge."""

    async def main():
        lake = {"id": "FrozenLake-v1", "map_size": SIZE, "is_slippery": False}
        world = World(name="gymnasium", target="gymnasium", options=lake)
        async with serve_environments([world], server_settings()) as url:
            served = section(url, env_type="gymnasium")
            environments = EnvServiceEnvironments.from_settings(served)
            around = EnvironmentAround({"": environments}, max_steps=8, seed=1)
            rules = settings(
                ServedFrozenLakeWorkflow,
                judge=EnvServiceJudge(),
                engine=ScriptedEngine(looking),
                timeout_seconds=60.0,
            )
            rules = replace(rules, episode=replace(rules.episode, surroundings=(around,)))
            ids = GymnasiumWorld.task_ids("train", num_tasks=4)
            tasks = [Task(main_query="", task_id=id_, env_type="gymnasium") for id_ in ids]
            return await asyncio.gather(
                *(run_episode(attempt(task=task, episode_id=task.task_id), rules) for task in tasks)
            )

    episodes = asyncio.run(main())
    assert [episode.failure for episode in episodes] == [None] * 4
    assert [episode.verdict.is_success for episode in episodes] == [True] * 4
    assert episodes[0].output.metadata["environment"]["evaluation"] == 1


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.yaml")), ids=lambda file: file.stem)
def test_the_settings_load(file):
    loaded = load_config(file)
    assert loaded.settings.rollout.multi_turn.max_steps > SIZE


@pytest.mark.parametrize("yaml", ["frozenlake_laptop", "frozenlake_served"])
def test_its_settings_train_a_tiny_model(tmp_path, yaml):
    """Which never names a way, so that its episodes last to the limit and teach nothing."""
    pytest.importorskip("torch")
    from astuner.cli import main
    from tests.tiny_model import make_tiny_model

    model = tmp_path / "model"
    model.mkdir()
    make_tiny_model(model)
    settings = {
        "model.path": model,
        "data.train_batch_size": 2,
        "data.max_prompt_length": 800,
        "data.max_response_length": 800,
        "data.max_validation_tasks": 2,
        "rollout.num_repeat": 2,
        "rollout.max_model_len": 1600,
        "rollout.multi_turn.max_steps": 2,
        "trainer_common.total_training_steps": 2,
        "trainer_common.save_freq": 99,
    }
    conf = FOLDER / f"{yaml}.yaml"
    given = [f"astuner.{key}={value}" for key, value in settings.items()]
    assert main(["--conf", str(conf), "--exp-dir", str(tmp_path / "runs"), *given]) == 0
    found = RunDir.latest(tmp_path / "runs", conf.stem)
    assert found is not None
    steps = [line for line in read_json_lines(found.metrics_file) if "rollout/episodes" in line]
    assert [step["rollout/episodes"] for step in steps] == [4, 4]
    assert [step["rollout/failed_episodes"] for step in steps] == [0, 0]
