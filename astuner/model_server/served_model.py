"""The models that a server has, by the names that clients know them by.

A model is an engine with the template, the limits and the distribution that go with its weights.
"""

import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from astuner.engine.protocol import Engine, Sampling
from astuner.engine.scheduler import EngineLoad
from astuner.gateway.refusals import check_served
from astuner.gateway.sampling import Distribution
from astuner.gateway.wires.wire_format import ANY_MODEL
from astuner.inference.chat import TokenChat
from astuner.inference.limits import TokenLimits
from astuner.model_server.daily_template import DailyTemplate
from astuner.model_server.distribution import OwnDistribution
from astuner.trajectory.recorder import Recorder

_SEEDED = "seeded"
"""Names every caller with a seed, so that equal calls draw equal numbers, whoever makes them."""


class LastingEngine(Engine, Protocol):
    """An engine that goes on after an error, and tells how busy it is."""

    @property
    def load(self) -> EngineLoad: ...

    def revive(self) -> bool:
        """Serve on where an error ended it; whether that was so."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """Weights that can be asked, under one name."""

    name: str
    engine: LastingEngine
    template: DailyTemplate
    max_len: int
    """Most tokens of prompt and reply together."""
    own: OwnDistribution
    weights: str
    """Tells them from all others."""
    base: str | None = None
    """Name of the model that it is an adapter of; None for whole weights."""

    def start_chat(
        self, recorder: Recorder, distribution: Distribution, *, is_seeded: bool
    ) -> TokenChat:
        """A chat for one call; nothing of it stays behind."""
        template = self.template.today()
        self.engine.revive()
        return TokenChat(
            self.engine,
            template,
            recorder,
            episode_id=_SEEDED if is_seeded else secrets.token_hex(12),
            sampling=Sampling(
                temperature=distribution.temperature,
                top_p=distribution.top_p,
                top_k=distribution.top_k,
                max_new_tokens=self.max_len,
                stop_ids=template.stop_ids,
            ),
            limits=TokenLimits(
                max_model_len=self.max_len,
                max_prompt_length=self.max_len - 1,
                max_response_length=self.max_len,
                max_response_length_in_one_turn=self.max_len,
            ),
            offers_tools=True,
            find_madness=lambda _reply: None,
            ends_on_madness=False,
            # A conversation is many calls, and each has a chat of its own.
            tool_call_prefix=f"call_{secrets.token_hex(6)}",
        )


class ServedModels:
    """In the order in which they were named; the first is meant by those who name none."""

    def __init__(self, models: Iterable[ServedModel]) -> None:
        self._by_name = {model.name: model for model in models}

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._by_name)

    def all(self) -> tuple[ServedModel, ...]:
        return tuple(self._by_name.values())

    def find(self, name: str) -> ServedModel:
        """Raises Refusal 404 for a name that none has."""
        if name == ANY_MODEL and name not in self._by_name:
            return next(iter(self._by_name.values()))
        check_served(name, self.names)
        return self._by_name[name]
