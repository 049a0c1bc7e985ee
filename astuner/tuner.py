"""`ModelTuner`: the model being tuned, in the shapes that a workflow can use."""

import sys
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from astuner.errors import WorkflowError
from astuner.gateway.door import Address, Door
from astuner.inference.request import Chat
from astuner.inference.shapes.agentscope import AgentScopeModel, RecordedModel
from astuner.inference.shapes.agentscope2 import AgentScope2Calls
from astuner.inference.shapes.noted import NotedChat
from astuner.inference.shapes.routed import RoutedChat
from astuner.trajectory.recorder import Recorder
from astuner.trajectory.refusal_log import RefusalLog

if TYPE_CHECKING:
    from openai import AsyncOpenAI, OpenAI

DEFAULT_AGENT = "default_agent_name"
DEFAULT_TARGET = "default_target_tag"


class ModelTuner(AgentScopeModel):
    """The model behind the agent, handed to `Workflow.execute`; itself an AgentScope chat model.

    One instance serves one episode. Every token it samples is recorded for training.
    """

    def __init__(
        self,
        chat: Chat,
        *,
        config: Any = None,
        door: Door | None = None,
        refusal_log: RefusalLog | None = None,
    ) -> None:
        """A plain chat answers every agent, and all are trained. Without a door the model has no
        address. `refusal_log` is the run's, for calls that are refused in this process."""
        self._routes = chat if isinstance(chat, RoutedChat) else RoutedChat(chat)
        noted = NotedChat(self._routes, refusal_log or RefusalLog())
        super().__init__(noted, agent_name=DEFAULT_AGENT, target_tag=DEFAULT_TARGET)
        self.config = config
        """The resolved configuration with attribute access, read-only."""
        self._door = door

    def as_agentscope_model(
        self,
        agent_name: str = DEFAULT_AGENT,
        target_tag: str = DEFAULT_TARGET,
        debug_model: Any = None,
    ) -> Any:
        """The model for one of several agents.

        A tag outside `trainable_targets` is answered by `debug_model`, and nothing of it is
        trained: an AgentScope model, "reference" for the frozen weights that the run started from,
        or the name of a model of rollout.untrained_model.base_url. None takes
        rollout.untrained_model.model. Raises ConfigError when there is none.
        """
        agent_name, target_tag = agent = (str(agent_name), str(target_tag))
        if self._routes.is_trained(target_tag) or isinstance(debug_model, str | None):
            self._routes.admit(agent, debug_model if isinstance(debug_model, str) else None)
            model = AgentScopeModel(self._chat, agent_name=agent_name, target_tag=target_tag)
            return as_chat_model(model)
        _check_debug_model(agent_name, debug_model)
        self.get_context_tracker().agents[agent] = False
        return as_chat_model(RecordedModel(debug_model, self.get_context_tracker(), agent=agent))

    def register_model(self, target: str, default_model: Any = None) -> Any:
        """Older name of `as_agentscope_model`; the target names the agent and its tag."""
        return self.as_agentscope_model(target, target, default_model)

    def as_oai_baseurl_apikey(
        self,
        agent_name: str = DEFAULT_AGENT,
        target_tag: str = DEFAULT_TARGET,
        debug_model: str | None = None,
    ) -> Address:
        """Where a client of OpenAI or Anthropic finds the model: `.base_url` and `.api_key`.

        The key stands for this agent of this episode and is good until the episode ends. An agent
        that is not trained is answered as in `as_agentscope_model`, by a model that has a name.
        """
        door = self._open_door()
        agent_name, target_tag = agent = (str(agent_name), str(target_tag))
        self._routes.admit(agent, debug_model)
        return door.address(agent_name=agent_name, target_tag=target_tag)

    def as_raw_openai_sdk_client(
        self,
        agent_name: str = DEFAULT_AGENT,
        target_tag: str = DEFAULT_TARGET,
        debug_model: str | None = None,
    ) -> "AsyncOpenAI":
        """An `openai.AsyncOpenAI` that talks to the model; closed when the episode ends."""
        address = self.as_oai_baseurl_apikey(agent_name, target_tag, debug_model)
        return self._open_door().async_client(address)

    def as_sync_openai_sdk_client(
        self,
        agent_name: str = DEFAULT_AGENT,
        target_tag: str = DEFAULT_TARGET,
        debug_model: str | None = None,
    ) -> "OpenAI":
        """An `openai.OpenAI`, for code that runs in a thread; closed when the episode ends.

        Called in the event loop it would wait for itself: write `def execute`, which has a thread.
        """
        address = self.as_oai_baseurl_apikey(agent_name, target_tag, debug_model)
        return self._open_door().sync_client(address)

    def _open_door(self) -> Door:
        if self._door is None:
            raise WorkflowError(
                "the model has no address here: this ModelTuner was made without a gateway; "
                "inside a run every workflow gets one that has"
            )
        return self._door

    def name_calls(
        self, name: str | None, *, state: str | None = None, agent_name: str | None = None
    ) -> None:
        """Name the calls that are recorded from here on, of one agent or of all, until named anew.

        `WorkflowOutput.step_rewards` may speak of them by that name, and calls in an equal `state`
        are compared where adv_estimator is gigpo. None is no name. Raises WorkflowError for what is
        no text.
        """
        for what, value in (("name", name), ("state", state), ("agent_name", agent_name)):
            if not isinstance(value, str | None):
                raise WorkflowError(
                    f"name_calls: {what} is {type(value).__name__}; expected text or None"
                )
        self.get_context_tracker().name_calls(name, state=state, agent_name=agent_name)

    def get_context_tracker(self) -> Recorder:
        """The episode's record; `.context_overflow` is True once no room was left."""
        return self._chat.recorder


def _check_debug_model(agent_name: str, model: Any) -> None:
    if isinstance(model, AgentScopeModel):
        raise WorkflowError(
            f"agent {agent_name!r}: its debug_model is the model that is tuned, which is for "
            "trained agents only; use 'reference' for its weights as they were at the start"
        )
    if not callable(model):
        raise WorkflowError(
            f"agent {agent_name!r}: its debug_model is {type(model).__name__}; expected an "
            "AgentScope model, 'reference' or the name of a model"
        )
    if "agentscope" in sys.modules and not _is_agentscope_1():
        raise WorkflowError(
            f"agent {agent_name!r}: its debug_model is {type(model).__name__}, and calls of models "
            "of AgentScope 2 cannot be recorded; use 'reference' or the name of a model of "
            "rollout.untrained_model.base_url"
        )


Model = TypeVar("Model", AgentScopeModel, ModelTuner, RecordedModel)


def as_chat_model(model: Model) -> Model:
    """Make `model` an instance of AgentScope's ChatModelBase where AgentScope is in use.

    AgentScope is not imported for workflows that do without it.
    """
    if "agentscope" in sys.modules:
        from agentscope.model import ChatModelBase

        if not isinstance(model, ChatModelBase):
            model.__class__ = _chat_model_class(type(model))
    return model


@cache
def _chat_model_class(kind: type) -> Any:
    """A subclass of `kind`; one for all, since each costs as much as a call of the model."""
    from agentscope.model import ChatModelBase

    on_top = () if _is_agentscope_1() else (AgentScope2Calls,)
    return type(kind.__name__, (*on_top, kind, ChatModelBase), {})


def _is_agentscope_1() -> bool:
    from agentscope import __version__

    return __version__.startswith("1.")
