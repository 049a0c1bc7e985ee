"""The agent loop of verl that runs one of our episodes. verl makes one object for each episode."""

# verl is installed in a virtual environment of its own:
# pyright: reportMissingImports=false

from functools import partial
from typing import Any

from verl.experimental.agent_loop.agent_loop import (
    AgentLoopBase,
    AgentLoopMetrics,
    AgentLoopOutput,
)

from astuner.backbone.cluster.rows import Row, make_rows
from astuner.backbone.cluster.runner_here import EngineHere, runner_here
from astuner.backbone.verl.engine import ServerEngine
from astuner.trajectory.episode import Episode
from astuner.types import Task


class EpisodeLoop(AgentLoopBase):
    """Runs one episode and returns a row for each sequence that is to be trained."""

    async def run(self, sampling_params: dict[str, Any], **fields: Any) -> list[AgentLoopOutput]:
        """`fields` are those of the dataset, and which attempt at which prompt of the step it is.

        A failed episode returns nothing, so verl leaves it out. `sampling_params` are verl's copy
        of the run's own settings, which the episode has anyway.
        """
        runner = await runner_here(partial(_engine, self))
        episode = await runner.run(
            Task.model_validate_json(fields["task"]),
            group=fields["uid"],
            step=int(fields["global_steps"]),
            attempt=int(fields["session_id"]),
            is_validation=bool(fields["is_validation"]),
        )
        return [_output(episode, row) for row in make_rows(episode)]


def _engine(loop: EpisodeLoop) -> EngineHere:
    """From whichever loop comes first: what all loops of a process share."""
    return EngineHere(
        engine=ServerEngine(loop.server_manager),
        tokenizer=loop.tokenizer,
        model=loop.config.actor_rollout_ref.model.path,
        num_processes=loop.rollout_config.agent.num_workers,
    )


def _output(episode: Episode, row: Row) -> AgentLoopOutput:
    assert episode.verdict is not None
    return AgentLoopOutput(
        prompt_ids=row.prompt_ids,
        response_ids=row.response_ids,
        response_mask=row.response_mask,
        response_logprobs=row.response_logprobs,
        reward_score=episode.verdict.reward,
        num_turns=len(episode.calls),
        metrics=AgentLoopMetrics(generate_sequences=episode.engine_seconds),
        extra_fields={
            "episode_id": episode.episode_id,
            "reward_extra_info": {"success": float(episode.verdict.is_success)},
            "min_global_steps": row.min_version,
            "max_global_steps": row.max_version,
        },
    )
