"""Builds the rollout half of a run from its settings: tasks, chats, pool and the user's functions.

The only place where settings of the rollout are read; everything below gets plain values.
"""

from collections.abc import Callable
from typing import Any

from astuner.algorithm.advantage import ADVANTAGES, AdvantageFunction, checked_advantages
from astuner.backbone.run import Run
from astuner.config.sections.rollout import RolloutSettings
from astuner.engine.protocol import Engine, Sampling
from astuner.errors import ConfigError
from astuner.gateway.gateway import Gateway, GatewaySettings
from astuner.gateway.sampling import Distribution
from astuner.imports import load_object
from astuner.inference.chat import Reply, TokenChat, TokenLimits
from astuner.inference.placement import JoiningPolicy
from astuner.inference.request import Chat
from astuner.inference.shapes.remote import RemoteChat
from astuner.inference.shapes.routed import REFERENCE
from astuner.inference.template import ChatTemplate
from astuner.llm.server import LlmServer
from astuner.rollout.episode import EpisodeSettings
from astuner.rollout.judging import Judging
from astuner.rollout.madness import check_names, find_madness
from astuner.rollout.pool import PoolSettings, RolloutPool
from astuner.rollout.surroundings import GatewayDoor
from astuner.task_reader import make_task_reader
from astuner.task_reader.local_path import find_path
from astuner.trajectory.recorder import Recorder
from astuner.types import Task, WorkflowTask

MakeChat = Callable[[Recorder, WorkflowTask], Chat]
MakeUntrainedChat = Callable[[Recorder, WorkflowTask, str], Chat]


def read_tasks(run: Run) -> tuple[list[Task], list[Task]]:
    """Training and validation tasks of the configured reader."""
    settings = run.settings.task_reader
    section = getattr(settings, settings.type, None)
    reader = make_task_reader(
        settings.type, section.model_dump() if section else {}, run.search_dirs
    )
    return reader.get_training_tasks(), reader.get_validation_tasks()


def find_model(run: Run) -> str:
    """The folder of model.path, or its name on the hub. Raises ConfigError when it is not set."""
    path = run.settings.model.path
    if path is None:
        raise ConfigError("model.path is not set; give a hub name or a folder")
    return str(find_path(path, run.search_dirs) or path)


def load_advantage(run: Run) -> AdvantageFunction:
    """The function of trainer_common.algorithm.adv_estimator."""
    function = load_own_function(run, "adv_estimator")
    if function is None:
        return ADVANTAGES[run.settings.trainer_common.algorithm.adv_estimator]
    return lambda groups: checked_advantages(function, groups)


def load_own_function(run: Run, setting: str) -> Any:
    """The user's function, where the setting of trainer_common.algorithm names one by its path.

    None where it does not; raises ConfigError where the path leads to something else.
    """
    value = getattr(run.settings.trainer_common.algorithm, setting)
    if "->" not in value:
        return None
    function = load_object(value, search_dirs=run.search_dirs)
    if not callable(function):
        raise ConfigError(
            f"trainer_common.algorithm.{setting}: {value} is {type(function).__name__}, "
            "expected a function"
        )
    return function


def make_pool(
    run: Run,
    make_chat: MakeChat,
    gateway: Gateway,
    *,
    max_parallel: int,
    timeout_seconds: float,
    make_reference_chat: MakeChat,
    expect_callers: Callable[[int], None] | None = None,
) -> RolloutPool:
    """The pool that runs the configured workflow and judge on `make_chat`.

    Agents that are not trained are answered by `make_reference_chat`, the frozen starting weights,
    or by the server of rollout.untrained_model.

    At most `max_parallel` episodes run at once, each for at most `timeout_seconds`. An engine whose
    batches shall not depend on timing is told in `expect_callers` how many are in flight.
    """
    episode = make_episode_settings(
        run,
        make_chat,
        gateway,
        timeout_seconds=timeout_seconds,
        make_reference_chat=make_reference_chat,
    )
    limits = PoolSettings(
        max_parallel=max_parallel,
        max_failed_fraction=run.settings.rollout.max_failed_fraction,
    )
    return RolloutPool(episode, make_judging(run), limits, expect_callers=expect_callers)


def make_judging(run: Run) -> Judging:
    """What judges the attempts of the run."""
    return Judging(
        run.judge,
        timeout_seconds=run.settings.task_judge.judge_timeout_seconds,
        madness_reward=run.settings.rollout.agent_madness_reward,
    )


def make_episode_settings(
    run: Run,
    make_chat: MakeChat,
    gateway: Gateway,
    *,
    timeout_seconds: float,
    make_reference_chat: MakeChat,
) -> EpisodeSettings:
    """What each attempt of the run needs; see `make_pool`."""
    rollout = run.settings.rollout
    targets = rollout.trainable_targets
    return EpisodeSettings(
        make_workflow=run.workflow_class,
        make_chat=make_chat,
        config=run.config,
        timeout_seconds=timeout_seconds,
        surroundings=(GatewayDoor(gateway),),
        trainable_targets=None if targets is None else tuple(targets),
        make_untrained=_untrained_chats(run, make_reference_chat),
        untrained_model=rollout.untrained_model.model,
    )


def _untrained_chats(run: Run, make_reference_chat: MakeChat) -> MakeUntrainedChat:
    """Chats by the name of a model: the reference, or one of the server."""
    untrained = run.settings.rollout.untrained_model
    clients: list[Any] = []

    def make(recorder: Recorder, task: WorkflowTask, model: str) -> Chat:
        if model == REFERENCE:
            return make_reference_chat(recorder, task)
        if untrained.base_url is None:
            raise ConfigError(
                f"debug_model {model!r} is the name of a model, and no server is known; set "
                "rollout.untrained_model.base_url, or use 'reference'"
            )
        if not clients:
            server = LlmServer.read(untrained.base_url, untrained.api_key_env)
            clients.append(server.open_client())
        return make_remote_chat(
            run,
            clients[0],
            recorder,
            model_name=model,
            setting="rollout.untrained_model.base_url",
            is_trained=False,
        )

    return make


def make_remote_chat(
    run: Run,
    client: Any,
    recorder: Recorder,
    *,
    model_name: str,
    setting: str,
    is_trained: bool,
) -> RemoteChat:
    """A chat over a server, with the sampling of training episodes."""
    rollout = run.settings.rollout
    return RemoteChat(
        client,
        recorder,
        model_name=model_name,
        temperature=rollout.temperature,
        max_new_tokens=rollout.max_response_length_in_one_turn,
        offers_tools=not rollout.agentscope_disable_toolcalls,
        setting=setting,
        is_trained=is_trained,
    )


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


def make_token_chat(
    run: Run, engine: Engine, template: ChatTemplate, *, is_trained: bool = True
) -> MakeChat:
    """Chats over an engine: training sampling for training episodes, val_kwargs for the others.

    Chats that are not trained look for no madness, since it is not the policy's.
    """
    rollout = run.settings.rollout
    checks = check_names(rollout.compute_madness_checklist)
    training, validation = _samplings(rollout, template)
    joining = _joining(run)

    def find(reply: Reply) -> str | None:
        return find_madness(checks, reply.parsed, reply.tools) if is_trained else None

    def make(recorder: Recorder, task: WorkflowTask) -> TokenChat:
        # The engine draws by these names, and may be the same for trained and untrained agents.
        name = task.episode_id if is_trained else f"{task.episode_id}/untrained"
        return TokenChat(
            engine,
            template,
            recorder,
            episode_id=name,
            sampling=validation if task.is_validation else training,
            limits=token_limits(run),
            offers_tools=not rollout.agentscope_disable_toolcalls,
            find_madness=find,
            ends_on_madness=rollout.agent_madness_termination,
            checks_tools=is_trained and "wrong_toolcall" in checks,
            joining=joining,
            is_trained=is_trained,
        )

    return make


def _joining(run: Run) -> JoiningPolicy:
    tracker = run.settings.context_tracker
    policy = tracker.timeline_merging_policy
    return JoiningPolicy(
        joins_by_text=policy.timeline_compare_level == "text",
        ignores_tools=policy.ignore_tools,
        logs_breaks=tracker.detect_timeline_snap,
    )


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
