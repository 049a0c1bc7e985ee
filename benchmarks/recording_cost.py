"""What a run's records cost it, as shares of the very work that they record."""

import argparse
import json
import os
import platform
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

from astuner.backbone.episode_writer import EpisodeWriter
from astuner.backbone.local import backbone
from astuner.backbone.local.rollouts import Rollouts
from astuner.training.scored import StepScores
from benchmarks.sums import CoinWorkflow, make_sums, tune

DESCRIPTION = """\
Train a few steps on small sums by the real loop, and time what writes records inside of it.

    python -m benchmarks.recording_cost models/smollm2-135m-instruct

  episodes   encoding an episode, and the thread that writes it: of the rollouts
  training   keeping log-probabilities, encoding and writing them: of whole steps

`processor` counts the seconds of all threads. `wall` counts what the loop itself is held up by:
what the writing thread does meanwhile is none of it, but the wait for it behind a rollout and a
step is. Shares are of one run, so that another program beside it slows both sides. Rewards are coin
tosses fixed for each text, so that most groups are trained on. The first step, which warms up, is
left out.
"""

PARTS = {
    "episodes": (("encode", "write", "wait behind rollout"), "rollout"),
    "training": (("keep", "encode and write", "wait behind step"), "step"),
}
"""What is compared, and with what."""


class Stopwatch:
    """Seconds by name, on the wall and of the processor."""

    def __init__(self) -> None:
        self.wall: defaultdict[str, float] = defaultdict(float)
        self.processor: defaultdict[str, float] = defaultdict(float)
        self.is_rolling_out = False

    @contextmanager
    def around(self, name: str, *, holds_up: bool = True, threads: str = "own") -> Iterator[None]:
        """Count what is inside; the processor's seconds of its `own` thread, of all, or of none."""
        count = {"own": time.thread_time, "all": time.process_time, "none": lambda: 0.0}[threads]
        wall, processor = time.perf_counter(), count()
        try:
            yield
        finally:
            self.wall[name] += time.perf_counter() - wall if holds_up else 0.0
            self.processor[name] += count() - processor

    def reset(self) -> None:
        self.wall.clear()
        self.processor.clear()

    def watch(self, owner: type, method: str, name: str, *, holds_up: bool = True) -> None:
        """Count each call of a method that stays in its thread."""
        honest = getattr(owner, method)

        @wraps(honest)
        def call(*arguments: Any, **options: Any) -> Any:
            with self.around(name, holds_up=holds_up):
                return honest(*arguments, **options)

        setattr(owner, method, call)


def watch_run(watch: Stopwatch) -> None:
    """Put the watch around what a run is made of."""
    watch.watch(EpisodeWriter, "write", "encode")
    watch.watch(EpisodeWriter, "_append", "write", holds_up=False)
    watch.watch(EpisodeWriter, "write_trained", "keep")
    for method in ("begin_update", "add", "samples"):
        watch.watch(StepScores, method, "keep")
    _watch_trained_lines(watch)
    roll_out, flush, run_step = Rollouts.roll_out, EpisodeWriter.flush, backbone._Tuning._run_step
    steps: list[int] = []

    async def watched_roll_out(*arguments: Any, **options: Any) -> Any:
        watch.is_rolling_out = True
        with watch.around("rollout", threads="all"):
            found = await roll_out(*arguments, **options)
        watch.is_rolling_out = False
        return found

    async def watched_flush(writer: EpisodeWriter) -> None:
        name = "rollout" if watch.is_rolling_out else "step"
        with watch.around(f"wait behind {name}", threads="none"):
            await flush(writer)

    async def watched_step(tuning: Any) -> None:
        with watch.around("step", threads="all"):
            await run_step(tuning)
        steps.append(1)
        if len(steps) == 1:
            await tuning._writer.flush()
            watch.reset()

    Rollouts.roll_out, EpisodeWriter.flush = watched_roll_out, watched_flush
    backbone._Tuning._run_step = watched_step


def _watch_trained_lines(watch: Stopwatch) -> None:
    """They go the way of episodes from where the file is known."""
    append = EpisodeWriter._append_all

    def call(writer: EpisodeWriter, path: Any, lines: Any) -> None:
        if path.parent.name != "training":
            return append(writer, path, lines)
        with watch.around("encode and write", holds_up=False):
            return append(writer, path, lines)

    EpisodeWriter._append_all = call


def shares(watch: Stopwatch) -> dict[str, Any]:
    return {
        part: {
            kind: {
                "share": round(sum(spent[name] for name in names) / spent[whole], 5),
                "seconds": {name: round(spent[name], 4) for name in (*names, whole)},
            }
            for kind, spent in (("processor", watch.processor), ("wall", watch.wall))
        }
        for part, (names, whole) in PARTS.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", metavar="MODEL_DIR")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--tasks", type=int, default=8)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--turns", type=int, default=1)
    parser.add_argument("--length", type=int, default=40, help="most tokens of an answer")
    arguments = parser.parse_args()
    watch = Stopwatch()
    watch_run(watch)
    per_turn = arguments.length + 48  # tokens: the answer, and the next question with its template
    num_episodes = arguments.tasks * arguments.group
    lines = tune(
        arguments.model,
        make_sums(arguments.tasks * arguments.steps, seed=0, turns=arguments.turns),
        {
            "data.train_batch_size": arguments.tasks,
            "data.max_prompt_length": 128,
            "data.max_response_length": per_turn * arguments.turns,
            "rollout.num_repeat": arguments.group,
            "rollout.max_env_worker": num_episodes,
            "rollout.max_num_seqs": num_episodes,
            "rollout.max_response_length_in_one_turn": arguments.length,
            "rollout.max_model_len": 128 + per_turn * arguments.turns,
            "trainer_common.total_training_steps": arguments.steps,
            "trainer_common.save_freq": arguments.steps + 1,
            "trainer_common.save_optimizer": "never",
            "trainer_common.max_token_len_per_gpu": 4096,
        },
        workflow=CoinWorkflow,
    )
    counted = lines[1:]
    report = {
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "num_episodes": num_episodes * len(counted),
        "num_trained_tokens": sum(line["train/tokens"] for line in counted),
        **shares(watch),
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
