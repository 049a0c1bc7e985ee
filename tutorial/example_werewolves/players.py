"""Who sits at the table: players that choose by lot, and two kinds that ask a model."""

import random
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

from agentscope.agent import ReActAgent
from agentscope.formatter import DashScopeMultiAgentFormatter
from agentscope.memory import InMemoryMemory
from agentscope.message import Msg
from agentscope.tool import Toolkit
from pydantic import BaseModel, create_model

from .game import HOST, WEREWOLF, Kind, View

RULES = """You are {name} in a game of Werewolves, and your role is {role}.
Each night the werewolves kill one player. Each day all who live discuss, and vote one player out.
The village wins when no werewolf lives; the werewolves win when they are half of those who live.
The seer learns each night whether a player is a werewolf. The witch has two potions, each good for
once: one saves who was attacked, one kills. The hunter may shoot a player when he dies.
{aim} Speak in one or two sentences."""
AIMS: Mapping[bool, str] = {
    True: "Win with the other werewolves: do not be found out, and kill the seer and the witch.",
    False: "Find the werewolves and vote them out. Tell what you know when it helps the village.",
}
ASKED: Mapping[Kind, str] = {
    "plot": "Werewolves, whom do we kill? Only werewolves hear you.",
    "kill": "Werewolf, whom do you kill?",
    "resurrect": "Witch, do you save who was attacked tonight?",
    "poison": "Witch, whom do you poison?",
    "check": "Seer, whom do you look at?",
    "shoot": "Hunter, you die. Whom do you shoot?",
    "talk": "Who is a werewolf? All hear you.",
    "vote": "Whom do you vote out?",
    "last_words": "You are dead. Your last words?",
}

EXAMPLES = (
    (
        "You are Roy, a werewolf.\nWerewolves: Pat, Roy.\n"
        "Werewolf, whom do you kill? Pat, Roy, Sue, Tom, Una?",
        "Tom",
    ),
    ("You are Una, a villager.\nWhom do you vote out? Pat, Roy, Sue, Tom?", "Pat"),
    (
        "You are Pat, a werewolf.\nWerewolves: Pat, Roy.\n"
        "Whom do you vote out? Roy, Sue, Tom, Una?",
        "Sue",
    ),
)
"""For a model that is too small to do as it is told: it does as it sees."""


class RandomPlayer:
    """Chooses by lot: those whom it knows to be of the other side, else those who may be.

    That holds for the `informed` kinds; in others it chooses among all options.
    """

    def __init__(
        self,
        lots: random.Random,
        *,
        informed: Collection[Kind] = ("kill", "vote", "poison", "shoot"),
    ) -> None:
        self._lots, self._informed = lots, informed

    async def hear(self, speaker: str, text: str) -> None:
        pass

    async def decide(self, kind: Kind, options: Sequence[str], view: View) -> str | None:
        if not options:
            return "I do not know."
        is_wolf = view.role == WEREWOLF
        foes = [option for option in options if view.is_wolf.get(option, is_wolf) != is_wolf]
        unsure = [option for option in options if view.is_wolf.get(option) != is_wolf]
        return self._lots.choice((kind in self._informed and (foes or unsure)) or options)


class ReActPlayer:
    """An agent that remembers the whole game, speaks, and chooses by structured output.

    It is asked by `reply`, since calling it would swallow the end of an episode's time.
    """

    def __init__(self, name: str, role: str, model: Any) -> None:
        self.agent = ReActAgent(
            name=name,
            sys_prompt=RULES.format(name=name, role=role, aim=AIMS[role == WEREWOLF]),
            model=model,
            formatter=DashScopeMultiAgentFormatter(),
            toolkit=Toolkit(),
            memory=InMemoryMemory(),
            max_iters=3,
        )
        self.agent.set_console_output_enabled(False)

    async def hear(self, speaker: str, text: str) -> None:
        await self.agent.observe(Msg(speaker, text, "user"))

    async def decide(self, kind: Kind, options: Sequence[str], view: View) -> str | None:
        if not options:
            reply = await self.agent.reply(Msg(HOST, ASKED[kind], "user"))
            return reply.get_text_content()
        asked = f"{ASKED[kind]} Choose one of: {', '.join(options)}."
        reply = await self.agent.reply(Msg(HOST, asked, "user"), structured_model=_one_of(options))
        # None where no try gave a valid one.
        return (reply.metadata or {}).get("choice")


class BriefPlayer:
    """Asks the model anew for each choice, by a prompt of a few lines, and says nothing.

    For a model too small to follow a game: it reads who it is, what it knows and who lives, and
    answers with one word.
    """

    def __init__(self, model: Any, *, shows_examples: bool) -> None:
        self._model = model
        self._examples = EXAMPLES if shows_examples else ()

    async def hear(self, speaker: str, text: str) -> None:
        pass

    async def decide(self, kind: Kind, options: Sequence[str], view: View) -> str | None:
        if not options:
            return None
        reply = await self._model(self.messages(kind, options, view))
        return "".join(block["text"] for block in reply.content if block["type"] == "text")

    def messages(self, kind: Kind, options: Sequence[str], view: View) -> list[dict[str, Any]]:
        messages = [{"role": "system", "content": "You play Werewolves. Answer with one word."}]
        for question, answer in self._examples:
            messages.append({"role": "user", "content": question})
            messages.append({"role": "assistant", "content": answer})
        return [*messages, {"role": "user", "content": self._prompt(kind, options, view)}]

    def _prompt(self, kind: Kind, options: Sequence[str], view: View) -> str:
        wolves = [name for name in view.alive if view.is_wolf.get(name)]
        lines = [
            f"You are {view.name}, a {view.role}.",
            f"Werewolves: {', '.join(wolves)}." if wolves else "",
            f"{ASKED[kind]} {', '.join(options)}?",
        ]
        return "\n".join(line for line in lines if line)


def _one_of(options: Sequence[str]) -> type[BaseModel]:
    return create_model("Choice", choice=(Literal[tuple(options)], ...))
