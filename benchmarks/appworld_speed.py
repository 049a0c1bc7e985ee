"""How long an episode of AppWorld takes, cold and from warm processes, and what memory a world.

Cold is a fresh interpreter for each episode, as if there were no server. Warm is the server of
`astuner env serve appworld`, over HTTP. An episode is its first observation, two actions and its
evaluation; the model that would think of the actions is left out.

    python benchmarks/appworld_speed.py ROOT [--python .venv-appworld/bin/python] [--episodes 20]

ROOT has the folder data, by `appworld download data --root ROOT`, or of the small world of the
tests, by .venv-appworld/bin/python tests/appworld/tiny_world.py ROOT.
"""

import argparse
import asyncio
import os
import resource
import statistics
import subprocess
import time
from pathlib import Path

from astuner.env_service.client import EnvServiceEnvironments
from astuner.env_service.server.serve import serve_environments
from astuner.env_service.server.world import ENVIRONMENT_NAMES, ServerSettings, World
from astuner.pins.appworld import find_python
from astuner.types import Task

ACTIONS = ("print(apis.supervisor.show_active_task())", "apis.supervisor.complete_task(answer=1)")
COLD = """
import importlib.util, sys
file, root, task_id, *actions = sys.argv[1:]
spec = importlib.util.spec_from_file_location("world", file)
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
world = module.AppWorldWorld(root=root)
world.reset(options={"task_id": task_id})
for action in actions:
    world.step(action)
world.evaluate()
world.close()
"""
NUM_COLD = 3
NUM_AT_ONCE = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("root", type=Path)
    parser.add_argument("--python", type=Path)
    parser.add_argument("--episodes", type=int, default=20)
    parsed = parser.parse_args()
    python, root = find_python(parsed.python), parsed.root.absolute()
    task_id = (root / "data" / "datasets" / "train.txt").read_text().split()[0].partition(":")[0]
    show("cold, one after the other", [cold(python, root, task_id) for _ in range(NUM_COLD)])
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"  of the processor: {(used.ru_utime + used.ru_stime) / NUM_COLD:.2f} s an episode")
    asyncio.run(measure_warm(python, root, task_id, num_episodes=parsed.episodes))


def cold(python: Path, root: Path, task_id: str) -> float:
    file = ENVIRONMENT_NAMES["appworld"].target.partition("->")[0]
    began = time.perf_counter()
    command = [str(python), "-P", "-c", COLD, file, str(root), task_id, *ACTIONS]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


async def measure_warm(python: Path, root: Path, task_id: str, *, num_episodes: int) -> None:
    world = World(
        name="appworld", target="appworld", python=str(python), options={"root": str(root)}
    )
    began = time.perf_counter()
    async with serve_environments([world], ServerSettings(port=0)) as address:
        print(f"server ready after {time.perf_counter() - began:.1f} s")
        environments = EnvServiceEnvironments.from_settings(
            {
                "env_type": "appworld",
                "env_url": address,
                "env_action_preference": "text",
                "token_env": "ENV_SERVICE_TOKEN",
                "options": {},
                "timeout_seconds": 120.0,
            }
        )
        task = Task(main_query="", task_id=task_id, env_type="appworld")

        async def episode() -> tuple[float, float]:
            began = time.perf_counter()
            instance = await environments.create(task, episode_id="", seed=1)
            created = time.perf_counter() - began
            for action in ACTIONS:
                await instance.step({"role": "assistant", "content": action})
            await instance.evaluate()
            await instance.release()
            return created, time.perf_counter() - began

        before = processor_seconds()
        alone = [await episode() for _ in range(num_episodes)]
        show("warm, one after the other", [seconds for _, seconds in alone])
        show("  of which until the first observation", [seconds for seconds, _ in alone])
        used = (processor_seconds() - before) / num_episodes
        print(f"  of the processor, without the server: {used:.2f} s an episode")
        began = time.perf_counter()
        for _ in range(max(1, num_episodes // NUM_AT_ONCE)):
            await asyncio.gather(*(episode() for _ in range(NUM_AT_ONCE)))
        num_together = max(1, num_episodes // NUM_AT_ONCE) * NUM_AT_ONCE
        per_second = num_together / (time.perf_counter() - began)
        print(f"warm, {NUM_AT_ONCE} at once: {per_second:.1f} episodes a second")
        held = [await environments.create(task, episode_id="", seed=1) for _ in range(4)]
        for instance in held:
            await instance.step({"role": "assistant", "content": ACTIONS[0]})
        show_memory()
        for instance in held:
            await instance.release()


def show(what: str, seconds: list[float]) -> None:
    print(
        f"{what}: median {statistics.median(seconds):.2f} s, "
        f"{min(seconds):.2f} to {max(seconds):.2f} s, {len(seconds)} episodes"
    )


def show_memory() -> None:
    """Of the process that the worlds are forked from, and of what each adds to it."""
    (nursery,) = children_of(os.getpid())
    own = [private_mib(process) for process in children_of(nursery)]
    print(
        f"memory: {resident_mib(nursery):.0f} MiB shared by all, and {statistics.median(own):.0f} "
        f"MiB of its own for each world, at most {max(own):.0f}"
    )


def processor_seconds() -> float:
    """Of all instances that have ended."""
    (nursery,) = children_of(os.getpid())
    fields = Path(f"/proc/{nursery}/stat").read_text().rpartition(")")[2].split()
    # Fields 16 and 17 of proc(5), of which the first two stand before.
    return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")


def children_of(process: int) -> list[int]:
    text = Path(f"/proc/{process}/task/{process}/children").read_text()
    return [int(word) for word in text.split()]


def private_mib(process: int) -> float:
    return kib_of(f"/proc/{process}/smaps_rollup", "Private_Dirty") / 1024


def resident_mib(process: int) -> float:
    return kib_of(f"/proc/{process}/status", "VmRSS") / 1024


def kib_of(file: str, name: str) -> int:
    lines = Path(file).read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


if __name__ == "__main__":
    main()
