"""Run directories as the log viewer finds them, written by hand: small, and odd where asked."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from astuner.logview.reading.index import EpisodeIndex
from astuner.run_dir import json_line

START = "2026-01-31_09-30-00"


def make_run(folder: Path, name: str = "math", start: str = START) -> Path:
    """A run that has started and written nothing more."""
    root = (folder / name / start).resolve()
    (root / "episodes").mkdir(parents=True)
    started = {"number": 1, "started": "2026-01-31T09:30:00+00:00"}
    (root / "started.json").write_text(json.dumps(started) + "\n")
    return root


def record(
    episode_id: str = "step1-0-0",
    *,
    task_id: str = "t0",
    attempt: int = 0,
    reward: float | None = 1.0,
    said: Sequence[str] = ("What is 1 + 1?", "2"),
    tool: str | None = None,
    agent: str = "solver",
    **other: Any,
) -> dict[str, Any]:
    """One episode of one call; `reward=None` is a failed one. `said` ends with the reply."""
    *asked, answered = said
    reply: dict[str, Any] = {"role": "assistant", "content": answered}
    if tool is not None:
        function = {"name": tool, "arguments": {"path": "notes.txt"}}
        reply["tool_calls"] = [{"id": "c0", "type": "function", "function": function}]
    is_failed = reward is None
    verdict = {"reward": reward, "is_success": reward == 1.0, "source": "judge", "rewards": {}}
    failure = {"kind": "WorkflowError", "message": "boom\nin detail", "traceback": "Traceback"}
    num_ids = max(1, len(answered))
    return {
        "format": 2,
        "episode_id": episode_id,
        "step": 1,
        "attempt": attempt,
        "is_validation": False,
        "task": {"main_query": asked[0] if asked else "", "task_id": task_id},
        "verdict": None if is_failed else verdict,
        "failure": failure if is_failed else None,
        "output": None if is_failed else {"reward": None, "is_success": None},
        "metadata": {},
        "agents": [[agent, "default", True]],
        "overflowed": [],
        "madness": None,
        "seconds": 1.5,
        "calls": [
            {
                "agent_name": agent,
                "target_tag": "default",
                "extends": None,
                "break_reason": None,
                "is_trained": True,
                "messages": [{"role": "user", "content": text} for text in asked],
                "tools": [],
                "prompt_ids": [1, 2],
                "completion_ids": list(range(num_ids)),
                "logprobs": [-0.5] * num_ids,
                "finish_reason": "stop",
                "weight_version": 0,
                "temperature": 1.0,
                "reply": reply,
                "started_seconds": 0.0,
                "seconds": 1.0,
            }
        ],
        "sequences": [
            {
                "agent_name": agent,
                "target_tag": "default",
                "spans": [
                    {"call": 0, "length": 2, "is_trained": False},
                    {"call": 0, "length": num_ids, "is_trained": True},
                ],
            }
        ],
        **other,
    }


def add(root: Path, file: str, *records: Mapping[str, Any] | bytes) -> Path:
    """Append lines to a file of episodes; bytes are written as they are."""
    path = root / "episodes" / file
    with path.open("ab") as out:
        for line in records:
            out.write(line if isinstance(line, bytes) else json_line(line, where=file))
    return path


def open_index(root: Path, cache: Path, **options: Any) -> EpisodeIndex:
    """An index that knows all that is there."""
    index = EpisodeIndex(root, cache, **options)
    assert index.refresh(seconds=None).is_whole
    return index
