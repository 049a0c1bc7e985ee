"""The workflow of Trinity that runs our episodes: all attempts at one task."""

# Trinity-RFT and Ray are installed in a virtual environment of their own:
# pyright: reportMissingImports=false

import asyncio
from functools import partial
from typing import Any

from transformers import AutoTokenizer
from trinity.common.experience import Experience
from trinity.common.workflows.workflow import Task as TrinityTask
from trinity.common.workflows.workflow import Workflow

from astuner.backbone.cluster.runner_here import EngineHere, runner_here
from astuner.backbone.trinity.engine import RolloutModelEngine
from astuner.backbone.trinity.experiences import episode_metrics, filler, to_experiences
from astuner.trajectory.episode import Episode
from astuner.types import Task

NUM_PROCESSES = "num_processes"
"""Argument of the workflow: how many processes run episodes."""


class EpisodeWorkflow(Workflow):
    """Runs the attempts at one task together and returns what they give to train on.

    A failed episode returns nothing. Trinity takes an empty list for a crash and would try again,
    so a group without anything to train returns a filler.
    """

    is_async = True
    can_repeat = True

    def __init__(self, *, task: TrinityTask, model: Any, auxiliary_models: Any = None) -> None:
        super().__init__(task=task, model=model, auxiliary_models=auxiliary_models)
        self._attempts = range(1)

    def set_repeat_times(self, repeat_times: int, run_id_base: int) -> None:
        self._attempts = range(run_id_base, run_id_base + repeat_times)

    async def run_async(self) -> list[Experience]:
        num_processes = self.task.workflow_args[NUM_PROCESSES]
        runner = await runner_here(partial(_engine, self.model, num_processes))
        task = Task(**(self.task.raw_task or {}))
        step, group = _step(self.task.batch_id), str(self.task.task_id)
        episodes = await asyncio.gather(
            *(
                runner.run(
                    task,
                    group=group,
                    step=step,
                    attempt=attempt,
                    is_validation=self.task.is_eval,
                )
                for attempt in self._attempts
            )
        )
        if self.task.is_eval:
            return [filler(step=step, metrics=_metrics(episode)) for episode in episodes]
        found = [e for episode in episodes for e in to_experiences(episode, group=group)]
        return found or [filler(step=step)]


def _step(batch_id: int | str) -> int:
    """A validation's batch is named by its step and its tasks."""
    return int(str(batch_id).partition("/")[0])


def _metrics(episode: Episode) -> dict[str, float]:
    if episode.verdict is None:
        return {"failed": 1.0}
    return {**episode_metrics(episode), "failed": 0.0}


def _engine(model: Any, num_processes: int) -> EngineHere:
    """`model` is Trinity's wrapper around the rollout model of this process."""
    return EngineHere(
        engine=RolloutModelEngine(
            model.get_openai_async_client(), model.model_name, lambda: model.model_version_async
        ),
        tokenizer=AutoTokenizer.from_pretrained(model.model_path),
        model=model.model_path,
        num_processes=num_processes,
    )
