"""What a curriculum on a cluster dealt and learned, with a hub alone and in a whole run."""

import json
from collections.abc import Sequence
from pathlib import Path

from astuner.backbone.cluster.hub_handle import HubHandle
from astuner.run_dir import read_json_lines
from astuner.task_reader.curriculum import POOLS
from astuner.types import Task
from tests.test_curriculum import lines_of


def bring(hub: HubHandle, step: int, tasks: Sequence[Task]) -> None:
    """The episodes of a step, some of each task a success, and the question what it trains on."""
    import ray

    for task in tasks:
        for line in lines_of(task, step):
            ray.get(hub.add_episode.remote(line, group=task.task_id))
    ray.get(hub.plan.remote(step))


def check_curriculum(run_dir: Path, step: int) -> None:
    """All of the step were unknown, and what came of them is beside the state of the engine."""
    lines = {line["step"]: line for line in read_json_lines(run_dir / "metrics.jsonl")}
    records = list(read_json_lines(run_dir / "episodes" / f"step_{step:06d}.jsonl"))
    judged = {record["task"]["task_id"] for record in records if record["verdict"]}
    dealt, sizes = (
        {pool: lines[step][f"curriculum/{kind}_{pool}"] for pool in POOLS}
        for kind in ("dealt", "pool")
    )
    assert dealt["unknown"] == sum(dealt.values()) == len({r["task"]["task_id"] for r in records})
    pattern = f"saved_checkpoints/*/*/curriculum/step_{max(lines)}.json"
    (file,) = run_dir.parents[2].glob(pattern)
    state = json.loads(file.read_text())
    assert sum(sizes.values()) == state["num_tasks"] == len(state["pass_rates"])
    assert sizes["unknown"] == state["num_tasks"] - len(judged)
