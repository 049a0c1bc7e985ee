"""Replies that are known already, said on the real path of a model call.

Prompts, continuations, breaks and what is read of a reply are those of a rollout; nothing is
sampled: an engine that recites stands in the engine's place.
"""

from collections.abc import Sequence

from astuner.engine.protocol import Observe, Sampling
from astuner.inference.chat import TokenChat
from astuner.inference.limits import TokenLimits
from astuner.inference.placement import JoiningPolicy
from astuner.inference.request import ChatReply, ChatRequest
from astuner.inference.template import ChatTemplate
from astuner.trajectory.recorder import Recorder
from astuner.types import Completion

_MANY = 100_000_000
_LIMITS = TokenLimits(
    max_model_len=_MANY,
    max_prompt_length=_MANY // 2,
    max_response_length=_MANY // 2,
    max_response_length_in_one_turn=_MANY // 4,
)


class _RecitingEngine:
    """An `Engine` that says what it was last told to, over and over."""

    weight_version = 0

    def __init__(self) -> None:
        self.ids: tuple[int, ...] = ()

    async def generate(
        self,
        prompt_ids: Sequence[int],
        sampling: Sampling,
        *,
        caller: str,
        index: int,
        observe: Observe | None = None,
    ) -> Completion:
        if observe is not None:
            observe(self.ids)
        return Completion(
            ids=self.ids,
            logprobs=(0.0,) * len(self.ids),
            finish_reason="stop",
            weight_version=0,
        )


class RecitedChat:
    """A `Chat` whose replies are given to it: ids up to the token that ends the turn.

    They are recorded at temperature 1 with log-probabilities of 0.
    """

    def __init__(
        self,
        template: ChatTemplate,
        recorder: Recorder,
        *,
        joining: JoiningPolicy | None,
        name: str,
    ) -> None:
        self.recorder = recorder
        self._engine = _RecitingEngine()
        self._chat = TokenChat(
            self._engine,
            template,
            recorder,
            episode_id=name,
            sampling=Sampling(
                temperature=1.0,
                top_p=1.0,
                top_k=-1,
                max_new_tokens=_MANY // 4,
                stop_ids=template.stop_ids,
            ),
            limits=_LIMITS,
            offers_tools=True,
            find_madness=lambda _reply: None,
            ends_on_madness=False,
            joining=joining,
        )

    def say(self, ids: tuple[int, ...]) -> None:
        """What is said from here on."""
        self._engine.ids = ids

    async def complete(self, request: ChatRequest) -> ChatReply:
        """Raises RequestError for a conversation that cannot be put into tokens."""
        return await self._chat.complete(request)


def up_to_stop(template: ChatTemplate, ids: tuple[int, ...]) -> tuple[int, ...]:
    """The ids up to the first token that ends a turn, at which an engine stops; all without one."""
    ends = (place for place, id_ in enumerate(ids) if id_ in template.stop_ids)
    return ids[: next(ends, len(ids)) + 1]


def ended(template: ChatTemplate, ids: tuple[int, ...]) -> tuple[int, ...]:
    """A reply's ids with a token that ends its turn, unless they have one or text ends turns."""
    has_end = bool(ids) and ids[-1] in template.stop_ids
    return ids if has_end or template.turn_end.stop_text else (*ids, min(template.stop_ids))
