"""`ModelTuner`: the model being tuned, in the shapes that a workflow can use."""

import sys
from typing import Any, TypeVar

from astuner.errors import WorkflowError
from astuner.inference.agentscope_model import AgentScopeModel
from astuner.inference.chat import Chat
from astuner.trajectory.recorder import Recorder

DEFAULT_AGENT = "default_agent_name"
DEFAULT_TARGET = "default_target_tag"


class ModelTuner(AgentScopeModel):
    """The model behind the agent, handed to `Workflow.execute`; itself an AgentScope chat model.

    One instance serves one episode. Every token it samples is recorded for training.
    """

    def __init__(
        self, chat: Chat, *, config: Any = None, trainable_targets: list[str] | None = None
    ) -> None:
        super().__init__(chat, agent_name=DEFAULT_AGENT, target_tag=DEFAULT_TARGET)
        self.config = config
        """The resolved configuration with attribute access, read-only."""
        self._trainable_targets = trainable_targets

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
