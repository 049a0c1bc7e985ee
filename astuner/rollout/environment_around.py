"""The environment instance of an episode: made before the workflow, released behind it.

Gives the workflow its `gym_env` and the question that the instance asks, and notes in the output
what the episode was worth while the instance still lives, so that a judge, and whoever judges the
record again, needs no server.
"""

import contextlib
import hashlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from astuner.env_service.as_action import text_of
from astuner.env_service.gym_env import GymEnv
from astuner.env_service.instance import Environments
from astuner.rollout.surroundings import Stage
from astuner.types import Task, WorkflowOutput, WorkflowTask

ENVIRONMENT = "environment"
"""Where a workflow's metadata has what became of its environment."""
_SEED_BYTES = 4


class EnvironmentAround:
    """An instance for each episode whose task comes from a source of environments."""

    name = "the environment"

    def __init__(
        self, environments: Mapping[str, Environments], *, max_steps: int, seed: int
    ) -> None:
        """`environments` by `Task.source`; tasks of other sources have none. An episode is cut
        after `max_steps` steps. `seed` is the run's."""
        self._environments, self._max_steps, self._seed = environments, max_steps, seed

    @contextlib.asynccontextmanager
    async def around(self, stage: Stage) -> AsyncIterator[Stage]:
        workflow_task = stage.workflow_task
        environments = self._environments.get(workflow_task.task.source)
        if environments is None:
            yield stage
            return
        instance = await environments.create(
            _as_its_source_has_it(workflow_task.task),
            episode_id=workflow_task.episode_id,
            seed=_seed_of(workflow_task, self._seed),
        )
        gym_env = GymEnv(instance, name=environments.name, max_steps=self._max_steps)
        try:
            yield replace(
                stage,
                workflow_task=replace(
                    workflow_task, task=_filled(workflow_task.task, gym_env), gym_env=gym_env
                ),
                on_output=(*stage.on_output, partial(_noted, gym_env)),
            )
        finally:
            await instance.release()


def _as_its_source_has_it(task: Task) -> Task:
    """Under its id there, which a mixture puts the name of the source before."""
    return task.model_copy(update={"task_id": task.id_in_source})


def _seed_of(workflow_task: WorkflowTask, seed: int) -> int:
    """The same for all attempts at a task in a step, which are compared; for a validation, in all
    of them."""
    task, step = workflow_task.task, workflow_task.step
    when = "validation" if workflow_task.is_validation else step
    text = repr((seed, task.source, task.task_id, when))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:_SEED_BYTES]) >> 1


def _filled(task: Task, gym_env: GymEnv) -> Task:
    """With the question that the instance asks, where the reader knew none."""
    messages = [dict(message) for message in gym_env.messages]
    asked = [message for message in messages if message["role"] == "user"]
    question = task.main_query or text_of(asked[-1:])
    return task.model_copy(update={"main_query": question, "init_messages": messages})


async def _noted(gym_env: GymEnv, output: WorkflowOutput) -> WorkflowOutput:
    """Raises EnvServiceError where the environment failed in mid-episode: no reward means anything
    then, whatever the workflow made of it."""
    if gym_env.failure is not None:
        raise gym_env.failure
    facts: dict[str, Any] = {
        "num_steps": gym_env.num_steps,
        "reward_sum": gym_env.reward_sum,
        "terminated": gym_env.is_terminated,
        "truncated": gym_env.is_truncated,
    }
    if output.reward is None:
        facts["evaluation"] = await gym_env.async_evaluate()
    return output.model_copy(update={"metadata": {**output.metadata, ENVIRONMENT: facts}})
