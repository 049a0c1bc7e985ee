"""Builds the rollout half of a run from its settings: tasks, chats and the pool.

The only place where settings of the rollout are read; everything below gets plain values.
"""

from collections.abc import Callable

from astuner.backbone.run import Run
from astuner.config.schema import RolloutSettings
from astuner.inference.chat import Chat, Reply, TokenChat, TokenLimits
from astuner.inference.engine import Engine, Sampling
from astuner.inference.gateway.gateway import Gateway, GatewaySettings
from astuner.inference.gateway.sampling import Distribution
from astuner.inference.template import ChatTemplate
from astuner.rollout.episode import EpisodeSettings
from astuner.rollout.madness import check_names, find_madness
from astuner.rollout.pool import PoolSettings, RolloutPool
from astuner.task_reader import make_task_reader
from astuner.trajectory.recorder import Recorder
from astuner.types import Task, WorkflowTask

MakeChat = Callable[[Recorder, WorkflowTask], Chat]


def read_tasks(run: Run) -> tuple[list[Task], list[Task]]:
    """Training and validation tasks of the configured reader."""
    settings = run.settings.task_reader
    section = getattr(settings, settings.type, None)
    reader = make_task_reader(
        settings.type, section.model_dump() if section else {}, run.search_dirs
    )
    return reader.get_training_tasks(), reader.get_validation_tasks()


def make_pool(
    run: Run,
    make_chat: MakeChat,
    gateway: Gateway,
    *,
    max_parallel: int,
    timeout_seconds: float,
    expect_callers: Callable[[int], None] | None = None,
) -> RolloutPool:
    """The pool that runs the configured workflow and judge on `make_chat`.

    At most `max_parallel` episodes run at once, each for at most `timeout_seconds`. An engine whose
    batches shall not depend on timing is told in `expect_callers` how many are in flight.
    """
    rollout = run.settings.rollout
    episode = EpisodeSettings(
        make_workflow=run.workflow_class,
        make_chat=make_chat,
        judge=run.judge,
        config=run.config,
        timeout_seconds=timeout_seconds,
        judge_timeout_seconds=run.settings.task_judge.judge_timeout_seconds,
        madness_reward=rollout.agent_madness_reward,
        gateway=gateway,
    )
    limits = PoolSettings(
        max_parallel=max_parallel, max_failed_fraction=rollout.max_failed_fraction
    )
    return RolloutPool(episode, limits, expect_callers=expect_callers)


def make_gateway(run: Run) -> Gateway:
    """The gateway of the run; it listens from when a workflow first asks for its address."""
    settings = run.settings
    training, validation = _distributions(settings.rollout)
    return Gateway(
        GatewaySettings(
            **settings.gateway.model_dump(),
            model_name=settings.model.path or settings.debug.openai_model or "astuner",
            training=training,
            validation=validation,
        )
    )


def make_token_chat(run: Run, engine: Engine, template: ChatTemplate) -> MakeChat:
    """Chats over an engine: training sampling for training episodes, val_kwargs for the others."""
    rollout = run.settings.rollout
    checks = check_names(rollout.compute_madness_checklist)
    training, validation = _samplings(rollout, template)

    def find(reply: Reply) -> str | None:
        return find_madness(checks, reply.parsed, reply.tools)

    def make(recorder: Recorder, task: WorkflowTask) -> TokenChat:
        return TokenChat(
            engine,
            template,
            recorder,
            episode_id=task.episode_id,
            sampling=validation if task.is_validation else training,
            limits=token_limits(run),
            offers_tools=not rollout.agentscope_disable_toolcalls,
            find_madness=find,
            ends_on_madness=rollout.agent_madness_termination,
        )

    return make


def token_limits(run: Run) -> TokenLimits:
    data, rollout = run.settings.data, run.settings.rollout
    return TokenLimits(
        max_model_len=rollout.max_model_len,
        max_prompt_length=data.max_prompt_length,
        max_response_length=data.max_response_length,
        max_response_length_in_one_turn=rollout.max_response_length_in_one_turn,
    )


def _samplings(rollout: RolloutSettings, template: ChatTemplate) -> tuple[Sampling, Sampling]:
    """Sampling of training and of validation."""
    training, validation = (
        Sampling(
            temperature=distribution.temperature,
            top_p=distribution.top_p,
            top_k=distribution.top_k,
            max_new_tokens=rollout.max_response_length_in_one_turn,
            stop_ids=template.stop_ids,
        )
        for distribution in _distributions(rollout)
    )
    return training, validation


def _distributions(rollout: RolloutSettings) -> tuple[Distribution, Distribution]:
    """Of training and of validation; a validation without do_sample is greedy."""
    kwargs = rollout.val_kwargs
    return (
        Distribution(temperature=rollout.temperature, top_p=rollout.top_p, top_k=-1),
        Distribution(
            temperature=kwargs.temperature if kwargs.do_sample else 0.0,
            top_p=kwargs.top_p,
            top_k=kwargs.top_k,
        ),
    )
