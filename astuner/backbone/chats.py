"""Makes the chats of a run from its settings: over an engine, or over a server.

Owns how the settings limit and sample replies; everything below gets plain values.
"""

from collections.abc import Callable, Mapping
from typing import Any

from astuner.backbone.run import Run
from astuner.config.sections.rollout import RolloutSettings
from astuner.engine.protocol import Engine, Sampling
from astuner.errors import ConfigError, RequestError
from astuner.gateway.sampling import Distribution
from astuner.inference.chat import Reply, TokenChat
from astuner.inference.limits import TokenLimits
from astuner.inference.placement import JoiningPolicy
from astuner.inference.request import Chat
from astuner.inference.shapes.remote import RemoteChat
from astuner.inference.shapes.routed import REFERENCE
from astuner.inference.template import ChatTemplate
from astuner.llm.dialect import Dialect
from astuner.llm.server import LlmServer
from astuner.rollout.madness import check_names, find_madness
from astuner.trajectory.recorder import Recorder
from astuner.types import WorkflowTask

MakeChat = Callable[[Recorder, WorkflowTask], Chat]
MakeUntrainedChat = Callable[[Recorder, WorkflowTask, str], Chat]


def make_token_chat(
    run: Run, engine: Engine, template: ChatTemplate, *, is_trained: bool = True
) -> MakeChat:
    """Chats over an engine: training sampling for training episodes, val_kwargs for the others.

    Chats that are not trained look for no madness, since it is not the policy's.
    """
    rollout = run.settings.rollout
    checks = check_names(rollout.compute_madness_checklist)
    training, validation = _samplings(rollout, template)
    joining = joining_policy(run)
    training_template, validation_template = _templates(rollout, template)

    def find(reply: Reply) -> str | None:
        return find_madness(checks, reply.parsed, reply.tools) if is_trained else None

    def make(recorder: Recorder, task: WorkflowTask) -> TokenChat:
        # The engine draws by these names, and may be the same for trained and untrained agents.
        name = task.episode_id if is_trained else f"{task.episode_id}/untrained"
        return TokenChat(
            engine,
            validation_template if task.is_validation else training_template,
            recorder,
            episode_id=name,
            sampling=validation if task.is_validation else training,
            limits=_token_limits(run),
            offers_tools=not rollout.agentscope_disable_toolcalls,
            find_madness=find,
            ends_on_madness=rollout.agent_madness_termination,
            checks_tools=is_trained and "wrong_toolcall" in checks,
            joining=joining,
            is_trained=is_trained,
        )

    return make


def joining_policy(run: Run) -> JoiningPolicy:
    """Which calls of the run are put behind earlier ones."""
    tracker = run.settings.context_tracker
    policy = tracker.timeline_merging_policy
    return JoiningPolicy(
        joins_by_text=policy.timeline_compare_level == "text",
        ignores_tools=policy.ignore_tools,
        logs_breaks=tracker.detect_timeline_snap,
    )


def _token_limits(run: Run) -> TokenLimits:
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
        for distribution in distributions(rollout)
    )
    return training, validation


def _templates(
    rollout: RolloutSettings, template: ChatTemplate
) -> tuple[ChatTemplate, ChatTemplate]:
    """The template of training and of validation."""
    of_validation = rollout.val_kwargs.chat_template_kwargs
    training = _with_kwargs(template, rollout.chat_template_kwargs, "rollout")
    if of_validation is None:
        return training, training
    return training, _with_kwargs(template, of_validation, "rollout.val_kwargs")


def training_template(run: Run, template: ChatTemplate) -> ChatTemplate:
    """The template with the values that training episodes give it."""
    return _with_kwargs(template, run.settings.rollout.chat_template_kwargs, "rollout")


def _with_kwargs(template: ChatTemplate, kwargs: Mapping[str, Any], section: str) -> ChatTemplate:
    try:
        return template.with_kwargs(kwargs)
    except RequestError as error:
        raise ConfigError(f"{section}.{error}") from error


def make_untrained_chats(run: Run, make_reference_chat: MakeChat) -> MakeUntrainedChat:
    """Chats by the name of a model: the reference, or one of the server."""
    untrained = run.settings.rollout.untrained_model
    clients: list[Any] = []
    dialects: dict[str, Dialect] = {}

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
            dialect=dialects.setdefault(model, Dialect(model)),
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
    dialect: Dialect,
    setting: str,
    is_trained: bool,
    is_validation: bool = False,
) -> RemoteChat:
    """A chat over a server, with the sampling of training episodes or of val_kwargs."""
    rollout = run.settings.rollout
    training, validation = distributions(rollout)
    sampling = validation if is_validation else training
    return RemoteChat(
        client,
        recorder,
        model_name=model_name,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        max_new_tokens=rollout.max_response_length_in_one_turn,
        offers_tools=not rollout.agentscope_disable_toolcalls,
        dialect=dialect,
        setting=setting,
        is_trained=is_trained,
    )


def distributions(rollout: RolloutSettings) -> tuple[Distribution, Distribution]:
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
