"""Tasks of an embedded environment on a cluster, at no run of their own."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from astuner.run_dir import read_json_lines

_AGENTS = Path(__file__).parents[1] / "agents"
_SERVER = b"astuner.env_service.server.beside"
WORLD: dict[str, Any] = {
    "type": "env_service",
    "env_service": {
        "env_type": f"{_AGENTS}/sum_world.py->SumWorld",
        "env_url": "embedded",
        "env_action_preference": "text",
    },
}


def make_mixed(conf: Path) -> None:
    """Change the run of a YAML: half of each batch is of an environment, with an agent whose tool
    is in the sandbox, and judged by what the environment says; a curriculum deals."""
    content = yaml.safe_load(conf.read_text())
    settings = content["astuner"]
    own = {
        "workflow": f"{_AGENTS}/sandboxed_adder.py->SandboxedAdderWorkflow",
        "judge": "astuner.task_judge.env_service_as_judge->EnvServiceJudge",
    }
    sources = {"file": settings["task_reader"], "world": {**WORLD, **own}}
    settings["task_reader"] = {"type": "mixture", "mixture": {"sources": sources}}
    settings["trainer_common"]["curriculum"] = {"enabled": True}
    conf.write_text(yaml.safe_dump(content))


def processes_of_environments(run: int) -> set[int]:
    """The server that the process of a run has started, and all below it."""
    servers = [pid for pid in _children(run) if _SERVER in _command(pid)]
    return {pid for server in servers for pid in (server, *_descendants(server))}


def check_mixed(run_dir: Path, step: int, environments: set[int]) -> None:
    """Workers reached the environment, each source had its half of a step, and all has ended."""
    records = list(read_json_lines(run_dir / "episodes" / f"step_{step:06d}.jsonl"))
    acted = [record for record in records if record["task"]["source"] == "world"]
    assert len(records) == 2 * len(acted) > 0
    assert not any("environment" in r["metadata"] for r in records if r not in acted)
    assert [record["failure"] for record in acted] == [None] * len(acted)
    for record in acted:
        noted, verdict = record["metadata"]["environment"], record["verdict"]
        assert (noted["num_steps"], noted["terminated"]) == (1, True)
        assert (verdict["reward"], verdict["source"]) == (1.5 * noted["evaluation"], "judge")
        said = record["metadata"]["tool_said"]
        assert "<returncode>0</returncode><stdout>5\n</stdout>" in said, said
    assert len(environments) > 1
    assert not [pid for pid in environments if Path(f"/proc/{pid}").exists()]


def _children(process_id: int) -> Iterator[int]:
    for children in Path(f"/proc/{process_id}/task").glob("*/children"):
        with suppress(OSError):  # a thread that has ended meanwhile
            yield from map(int, children.read_text().split())


def _descendants(process_id: int) -> Iterator[int]:
    for child in _children(process_id):
        yield child
        yield from _descendants(child)


def _command(process_id: int) -> bytes:
    return Path(f"/proc/{process_id}/cmdline").read_bytes()
