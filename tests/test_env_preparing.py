"""What instances of an environment share, and what goes with them: real processes and HTTP."""

import asyncio
import os
import signal
import textwrap
from pathlib import Path

import pytest

from astuner.env_service.server.world import World
from astuner.errors import ConfigError
from tests.env_servers import env_server

WORLD = """
import os, tempfile
from pathlib import Path

class Prepared:
    shared = []

    @classmethod
    def prepare(cls, word="none"):
        if word == "bad":
            raise RuntimeError("there is no such word")
        cls.shared.append((os.getpid(), word))

    def __init__(self, word="none"):
        pass

    def reset(self, *, seed=None, options=None):
        self.folder = Path(tempfile.mkdtemp())
        (self.folder / "state").write_text("much")
        return str(self.folder), {"shared": self.shared, "process": os.getpid()}

    def step(self, action):
        os.abort()
"""


def world(folder: Path, **options) -> World:
    (folder / "prepared.py").write_text(textwrap.dedent(WORLD))
    return World(name="world", target=f"{folder / 'prepared.py'}->Prepared", options=options)


def play(tmp_path, body, **options):
    async def served():
        async with env_server(world(tmp_path, **options)) as client:
            return await body(client)

    return asyncio.run(served())


async def create(client, name):
    asked = {"env_type": "world", "task_id": "a", "instance_id": name}
    made = await client.data("/create", **asked)
    return made["state"][0]["content"], made["info"]["environment"]


def test_an_environment_is_prepared_once_for_all_instances(tmp_path):
    async def body(client):
        return [(await create(client, name))[1] for name in "ab"]

    first, second = play(tmp_path, body, word="ready")
    assert first["shared"] == second["shared"]
    ((process, word),) = first["shared"]
    assert word == "ready"
    assert len({process, first["process"], second["process"]}) == 3


def test_what_preparing_raises_is_told_before_anything_listens(tmp_path):
    with pytest.raises(ConfigError, match="there is no such word"):
        play(tmp_path, create, word="bad")


@pytest.mark.parametrize("ends", ["released", "died", "orphaned", "left"])
def test_what_an_instance_wrote_goes_with_it(tmp_path, ends):
    async def body(client):
        folder, info = await create(client, "a")
        assert (Path(folder) / "state").read_text() == "much"
        if ends == "released":
            await client.data("/release", instance_id="a")
        if ends == "died":
            await client.step_error("a", "die")
        if ends == "orphaned":
            ((source, _),) = info["shared"]
            os.kill(source, signal.SIGKILL)
        while ends != "left" and Path(folder).exists():  # it is reaped behind the answer
            await asyncio.sleep(0.01)
        return Path(folder)

    folder = play(tmp_path, body)
    assert not folder.exists() and not folder.parent.parent.exists()
