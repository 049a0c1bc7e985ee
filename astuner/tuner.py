"""`ModelTuner`: the model being tuned, in the shapes that a workflow can use."""

import sys
from typing import TYPE_CHECKING, Any, TypeVar

from astuner.errors import WorkflowError
from astuner.inference.agentscope_model import AgentScopeModel
from astuner.inference.chat import Chat
from astuner.inference.gateway.door import Address, Door
from astuner.trajectory.recorder import Recorder

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
        trainable_targets: list[str] | None = None,
        door: Door | None = None,
    ) -> None:
        """Without a door the model has no address."""
        super().__init__(chat, agent_name=DEFAULT_AGENT, target_tag=DEFAULT_TARGET)
        self.config = config
        """The resolved configuration with attribute access, read-only."""
        self._trainable_targets = trainable_targets
        self._door = door

    def as_agentscope_model(
        self,
        agent_name: str = DEFAULT_AGENT,
        target_tag: str = DEFAULT_TARGET,
        debug_model: Any = None,
    ) -> Any:
        """The model for one of several agents.

        A tag outside `trainable_targets` gets `debug_model`, and nothing of it is trained. Raises
        WorkflowError when there is none.
        """
        if self._trainable_targets is None or target_tag in self._trainable_targets:
            model = AgentScopeModel(self._chat, agent_name=agent_name, target_tag=target_tag)
            return as_chat_model(model)
        if debug_model is None:
            raise WorkflowError(
                f"agent {agent_name!r}: its tag {target_tag!r} is not in trainable_targets "
                f"{self._trainable_targets}, so it needs a debug_model to talk to"
            )
        return debug_model

    def register_model(self, target: str, default_model: Any = None) -> Any:
        """Older name of `as_agentscope_model`; the target names the agent and its tag."""
        return self.as_agentscope_model(target, target, default_model)

    def as_oai_baseurl_apikey(
        self, agent_name: str = DEFAULT_AGENT, target_tag: str = DEFAULT_TARGET
    ) -> Address:
        """Where a client of OpenAI or Anthropic finds the model: `.base_url` and `.api_key`.

        The key stands for this agent of this episode and is good until the episode ends. Raises
        WorkflowError for a tag outside `trainable_targets`.
        """
        if self._trainable_targets is not None and target_tag not in self._trainable_targets:
            raise WorkflowError(
                f"agent {agent_name!r}: its tag {target_tag!r} is not in trainable_targets "
                f"{self._trainable_targets}, so the tuned model has no address for it; use a "
                "client of another model"
            )
        return self._open_door().address(agent_name=agent_name, target_tag=target_tag)

    def as_raw_openai_sdk_client(
        self, agent_name: str = DEFAULT_AGENT, target_tag: str = DEFAULT_TARGET
    ) -> "AsyncOpenAI":
        """An `openai.AsyncOpenAI` that talks to the model; closed when the episode ends."""
        return self._open_door().async_client(self.as_oai_baseurl_apikey(agent_name, target_tag))

    def as_sync_openai_sdk_client(
        self, agent_name: str = DEFAULT_AGENT, target_tag: str = DEFAULT_TARGET
    ) -> "OpenAI":
        """An `openai.OpenAI`, for code that runs in a thread; closed when the episode ends.

        Called in the event loop it would wait for itself: use `asyncio.to_thread`.
        """
        return self._open_door().sync_client(self.as_oai_baseurl_apikey(agent_name, target_tag))

    def _open_door(self) -> Door:
        if self._door is None:
            raise WorkflowError(
                "the model has no address here: this ModelTuner was made without a gateway; "
                "inside a run every workflow gets one that has"
            )
        return self._door

    def get_context_tracker(self) -> Recorder:
        """The episode's record; `.context_overflow` is True once no room was left."""
        return self._chat.recorder


Model = TypeVar("Model", bound=AgentScopeModel)


def as_chat_model(model: Model) -> Model:
    """Make `model` an instance of AgentScope's ChatModelBase where AgentScope is in use.

    AgentScope is not imported for workflows that do without it.
    """
    if "agentscope" in sys.modules:
        from agentscope.model import ChatModelBase

        kind = type(model)
        chat_model = type(kind.__name__, (kind, ChatModelBase), {})
        model.__class__ = chat_model  # type: ignore[assignment]  # a subclass of `kind`
    return model
