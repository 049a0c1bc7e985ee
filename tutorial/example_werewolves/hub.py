"""Where the players meet: a host over agentscope's MsgHub and pipelines."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from agentscope.agent import AgentBase
from agentscope.message import Msg
from agentscope.pipeline import MsgHub, fanout_pipeline, sequential_pipeline

from .game import HOST, Player, Question


class Seat(AgentBase):
    """A player as agentscope's pipelines see it. Answers the question that was put to it."""

    def __init__(self, name: str, player: Player) -> None:
        super().__init__()
        self.name, self._player = name, player
        self.question: Question | None = None
        self.said: str | None = None
        """The last answer."""

    async def observe(self, msg: Msg | list[Msg] | None) -> None:
        for one in msg if isinstance(msg, list) else [msg]:
            if one is not None:
                await self._player.hear(one.name, one.get_text_content() or "")

    async def reply(self, *_: Any, **__: Any) -> Msg:
        assert self.question is not None
        asked = self.question
        self.said = await self._player.decide(asked.kind, asked.options, asked.view)
        return Msg(self.name, self.said or "", "assistant")

    async def handle_interrupt(self, *_: Any, **__: Any) -> Msg:
        raise asyncio.CancelledError  # an episode that is out of time ends


class HubHost:
    """Tells by a hub's announcement, asks by a fan-out, and lets talk in turn within a hub."""

    def __init__(self, players: Mapping[str, Player]) -> None:
        self._seats = {name: Seat(name, player) for name, player in players.items()}

    async def tell(self, text: str, *, to: Sequence[str]) -> None:
        seats = [self._seats[name] for name in to]
        told = Msg(HOST, text, "user")
        async with MsgHub(seats, announcement=told, enable_auto_broadcast=False):
            pass

    async def ask(self, questions: Sequence[Question]) -> list[str | None]:
        seats = self._put(questions)
        await fanout_pipeline(seats, enable_gather=True)
        return [seat.said for seat in seats]

    async def talk(self, questions: Sequence[Question]) -> list[str | None]:
        seats = self._put(questions)
        async with MsgHub(seats):
            await sequential_pipeline(seats)
        return [seat.said for seat in seats]

    def _put(self, questions: Sequence[Question]) -> list[Any]:
        seats = [self._seats[question.view.name] for question in questions]
        for seat, question in zip(seats, questions, strict=True):
            seat.question = question
        return seats
