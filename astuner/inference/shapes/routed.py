"""Sends each call of an episode to the model of its agent: the policy, or a stand-in.

Owns which agents are trained and who answers the others. Every shape of the model, HTTP included,
calls through here, so that a call of an untrained agent never reaches the policy.
"""

import asyncio
from collections.abc import Callable, Collection
from typing import Any

from astuner.errors import ConfigError
from astuner.inference.request import Chat, ChatReply, ChatRequest, OnDelta
from astuner.trajectory.recorder import Agent

REFERENCE = "reference"
"""In place of a model's name: the weights that the run started from, frozen."""

MakeUntrained = Callable[[str], Chat]
"""The chat over the model of that name, or REFERENCE; its calls are recorded and never trained.

Raises ConfigError for a model that this run does not have.
"""


class RoutedChat:
    """Answers the calls of one episode."""

    def __init__(
        self,
        policy: Chat,
        *,
        trainable_targets: Collection[str] | None = None,
        make_untrained: MakeUntrained | None = None,
        untrained_model: str | None = None,
    ) -> None:
        """`trainable_targets` None trains all. `untrained_model` answers agents without one."""
        self.recorder = policy.recorder
        self._policy = policy
        self._trainable_targets = trainable_targets
        self._make_untrained = make_untrained
        self._untrained_model = untrained_model
        self._models: dict[Agent, str] = {}
        self._chats: dict[str, Chat] = {}
        self._waiting: set[asyncio.Task[Any]] = set()

    def is_trained(self, target_tag: str) -> bool:
        return self._trainable_targets is None or target_tag in self._trainable_targets

    def admit(self, agent: Agent, debug_model: str | None) -> None:
        """Note an agent of the episode, and who answers it when it is not trained.

        Raises ConfigError when nobody does, which no further episode would change.
        """
        name, target_tag = agent
        is_trained = self.is_trained(target_tag)
        self.recorder.agents[agent] = is_trained
        if is_trained:
            return
        model = debug_model or self._untrained_model
        if model is None:
            raise ConfigError(
                f"agent {name!r}: its target tag {target_tag!r} is not among the trainable_targets "
                f"{sorted(self._trainable_targets or ())}, and no model answers for it; to train "
                "it, name its tag there; else give it a debug_model (an AgentScope model, "
                "'reference', or the name of a model of rollout.untrained_model.base_url), or set "
                "rollout.untrained_model.model"
            )
        self._models[agent] = model
        self._chat_over(model)

    async def complete(self, request: ChatRequest, *, on_delta: OnDelta | None = None) -> ChatReply:
        caller = asyncio.current_task()
        assert caller is not None
        self._waiting.add(caller)
        try:
            return await self._complete(request, on_delta)
        finally:
            self._waiting.discard(caller)

    def close(self) -> None:
        """Cancel the tasks that still wait for an answer: the episode left them behind."""
        for caller in self._waiting:
            caller.cancel()

    async def _complete(self, request: ChatRequest, on_delta: OnDelta | None) -> ChatReply:
        if self.is_trained(request.target_tag):
            return await self._policy.complete(request, on_delta=on_delta)
        if request.agent not in self._models:
            self.admit(request.agent, None)
        model = self._models[request.agent]
        return await self._chat_over(model).complete(request, on_delta=on_delta)

    def _chat_over(self, model: str) -> Chat:
        if model not in self._chats:
            if self._make_untrained is None:
                raise ConfigError(
                    f"debug_model {model!r}: this run has no models beside the one that is tuned"
                )
            self._chats[model] = self._make_untrained(model)
        return self._chats[model]
