"""Writes the episodes of a run through beast-logger, in an environment that has it.

    python benchmarks/rival_viewer.py RUN LOGS

One entry for each episode in the order of the steps, as AgentJet writes them: a table in which each
token of its sequence stands as its text with its log-probability, its id, and a colour
for whether it is trained and how likely it was. Needs nothing of astuner.
"""

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from beast_logger import NestedJsonItem, SeqItem, print_nested, register_logger


def write(run: Path, logs: Path) -> None:
    register_logger(non_console_mods=["rollout"], base_log_path=str(logs))
    vocabulary = json.loads((run / "vocabulary.json").read_text())["tokens"]
    for path in sorted((run / "episodes").iterdir(), key=lambda path: path.stem.split("_")[1]):
        for line in path.open():
            _print_episode(json.loads(line), vocabulary)


def _print_episode(record: dict[str, Any], vocabulary: list[str]) -> None:
    reward = (record["verdict"] or {}).get("reward") or 0.0
    task = record["task"]["task_id"]
    tokens = list(_tokens(record))
    print_nested(
        {
            f"{task}.{reward}.0": NestedJsonItem(
                item_id="item",
                outcome=str(reward),
                len_input_ids=len(tokens),
                raw_reward=f"{reward:.3f}",
                step_reward=f"{reward:.3f}",
                content=SeqItem(
                    text=[vocabulary[token] for token, _ in tokens],
                    title=["N/A" if value is None else f"{value:.4f}" for _, value in tokens],
                    count=[str(token) for token, _ in tokens],
                    color=[_colour(value) for _, value in tokens],
                ),
            )
        },
        main_content="This is the main content of the nested JSON",
        header=f"[{record['step']}] Task {task} (Reward {reward:.3f})",
        mod="rollout",
        narrow=False,
        attach="copy this",
    )


def _tokens(record: dict[str, Any]) -> Iterator[tuple[int, float | None]]:
    """Those of its one sequence, each with its log-probability where it is trained."""
    for call in record["calls"]:
        yield from ((token, None) for token in call["prompt_ids"])
        yield from zip(call["completion_ids"], call["logprobs"], strict=True)


def _colour(value: float | None) -> str:
    """Blue where it is trained, the darker the less likely; else brown."""
    return "#D98510" if value is None else f"#09ABCF{max(64, int(255 * math.exp(value))):02X}"


if __name__ == "__main__":
    write(Path(sys.argv[1]), Path(sys.argv[2]))
