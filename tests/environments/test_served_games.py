"""Games of TextArena and TextWorld through the real server and client, each in a process."""

import asyncio

import pytest

pytest.importorskip("textarena")
pytest.importorskip("textworld")

from astuner.env_service.client import EnvServiceEnvironments
from astuner.env_service.server.serve import serve_environments
from astuner.env_service.server.world import World
from astuner.types import Task
from tests.env_servers import settings
from tests.test_env_client import section

pytestmark = pytest.mark.environments


def play(name, task_id, actions, **options):
    """What came of each action, the first observation before them, and the evaluation."""

    async def main():
        world = World(name=name, target=name, options=options)
        async with serve_environments([world], settings(num_spares=1)) as url:
            served = section(url, env_type=name, timeout_seconds=60.0)
            environments = EnvServiceEnvironments.from_settings(served)
            task = Task(main_query="", task_id=task_id, env_type=name)
            instance = await environments.create(task, episode_id="e", seed=5)
            steps = [await instance.step({"role": "assistant", "content": a}) for a in actions]
            evaluation = await instance.evaluate()
            await instance.release()
            await environments.close()
            return instance.messages[-1]["content"], steps, evaluation

    return asyncio.run(main())


def test_a_board_game_is_served():
    begun, steps, evaluation = play(
        "textarena", "3", ["[0]", "[1]", "[2]"], opponent=["[8]", "[7]", "[5]"]
    )
    assert begun.startswith("You are Player 0 in Tic Tac Toe.")
    assert [step.terminated for step in steps] == [False, False, True]
    assert steps[-1].info["rewards"] == {"0": 1, "1": -1}
    assert evaluation == 1


def test_an_adventure_is_served(tmp_path):
    quest = ["go east", "take type K keycard", "unlock type K chest with type K keycard"]
    begun, steps, evaluation = play("textworld", "3", quest, games=str(tmp_path))
    assert "type K chest is unlocked" in begun
    assert "go west" in steps[0].info["admissible_commands"]
    assert steps[-1].terminated
    assert evaluation == 1


def test_an_instance_without_a_folder_of_games_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    _, steps, _ = play("textworld", "3", ["go east"])
    assert not steps[-1].terminated
    assert list(tmp_path.rglob("*.z8")) == []
