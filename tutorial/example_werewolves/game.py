"""The rules of Werewolves: who does what when, who learns what, and who has won.

Knows neither models nor agentscope: a `Host` asks the players and brings them word. What chance
there is comes from a `random.Random` that is passed in, and nothing from the order of a set.
"""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

Role = Literal["werewolf", "villager", "seer", "witch", "hunter"]
Side = Literal["wolves", "village"]
Kind = Literal[
    "plot", "kill", "resurrect", "poison", "check", "shoot", "talk", "vote", "last_words"
]
"""What a player is asked for: to speak (plot, talk, last_words), or to choose."""

WEREWOLF: Role = "werewolf"
ROLES: tuple[Role, ...] = (WEREWOLF, "villager", "seer", "witch", "hunter")
NAMES = ("Ann", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gus", "Hal", "Ida", "Jon", "Kim", "Leo")
NOBODY, YES, NO = "nobody", "yes", "no"
HOST = "Moderator"


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """Who takes part, and how much is said."""

    roles: Mapping[str, int]
    """Role to the number of its players."""
    max_rounds: int = 30
    """A game that lasts longer has no winner."""
    num_plots: int = 1
    """Times that each wolf speaks in a night, before they vote."""
    num_talks: int = 1
    """Times that each player speaks in a day, before they vote."""
    has_last_words: bool = True
    """Of who dies in the first night or is voted out."""

    def __post_init__(self) -> None:
        unknown = sorted(set(self.roles) - set(ROLES))
        if unknown:
            raise ValueError(f"werewolves.roles: there is no role {unknown}; use {list(ROLES)}")
        num_players, num_wolves = sum(self.roles.values()), self.roles.get(WEREWOLF, 0)
        if not 1 <= num_wolves < num_players / 2 or num_players > len(NAMES):
            raise ValueError(
                f"werewolves.roles: {num_wolves} werewolves of {num_players} players; at least one "
                f"is needed, fewer than half, and at most {len(NAMES)} players"
            )
        several = [r for r in ("seer", "witch", "hunter") if self.roles.get(r, 0) > 1]
        if several:
            raise ValueError(f"werewolves.roles: more than one {several[0]}; take 0 or 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What a player may know when it is asked, beside what it has heard."""

    name: str
    role: Role
    round: int
    alive: tuple[str, ...]
    """In the order of the seats."""
    is_wolf: Mapping[str, bool]
    """Of those of whom the player knows it, itself included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What one player is asked, and what it may know."""

    kind: Kind
    options: tuple[str, ...]
    """One of these is the answer; empty where the player is to speak."""
    view: View


class Player(Protocol):
    async def hear(self, speaker: str, text: str) -> None: ...

    async def decide(self, kind: Kind, options: Sequence[str], view: View) -> str | None:
        """One of the options, or what it says where there are none. Anything else is no answer."""
        ...


class Host(Protocol):
    """Asks players and brings them word. Whom and what, the rules say."""

    async def tell(self, text: str, *, to: Sequence[str]) -> None: ...

    async def ask(self, questions: Sequence[Question]) -> list[str | None]:
        """The answers in order. Nobody hears those of others."""
        ...

    async def talk(self, questions: Sequence[Question]) -> list[str | None]:
        """The answers in order. All who are asked hear each, the later ones before they speak."""
        ...


class DirectHost:
    """Asks players that need nothing around them, one after the other."""

    def __init__(self, players: Mapping[str, Player]) -> None:
        self._players = players

    async def tell(self, text: str, *, to: Sequence[str]) -> None:
        for name in to:
            await self._players[name].hear(HOST, text)

    async def ask(self, questions: Sequence[Question]) -> list[str | None]:
        return [await self._answer(question) for question in questions]

    async def talk(self, questions: Sequence[Question]) -> list[str | None]:
        names = [question.view.name for question in questions]
        said: list[str | None] = []
        for name, question in zip(names, questions, strict=True):
            said.append(await self._answer(question))
            for other in names:
                if other != name:
                    await self._players[other].hear(name, said[-1] or "")
        return said

    async def _answer(self, question: Question) -> str | None:
        player = self._players[question.view.name]
        return await player.decide(question.kind, question.options, question.view)


@dataclass(slots=True)
class Tally:
    """What one player was asked to choose."""

    num_choices: int = 0
    num_invalid: int = 0


def deal_roles(variant: Variant, lots: random.Random) -> dict[str, Role]:
    """Name to role, in the order of the seats."""
    roles = [role for role in ROLES for _ in range(variant.roles.get(role, 0))]
    lots.shuffle(roles)
    return dict(zip(NAMES, roles, strict=False))


def read_choice(answer: str | None, options: Sequence[str]) -> str | None:
    """The option that the answer is; None where it is none of them."""
    said = (answer or "").strip().strip(".!\"'*`").casefold()
    return next((option for option in options if option.casefold() == said), None)


@dataclass(slots=True, kw_only=True)
class Game:
    """One game. Owns who lives, what each has found out, and the log.

    An answer that is no option is counted in the player's tally, and nothing comes of it: the vote
    does not count, the potion stays, nobody is shot, nobody is looked at. A tie is decided by lot.
    """

    variant: Variant
    roles: Mapping[str, Role]
    host: Host
    lots: random.Random
    round: int = 0
    alive: list[str] = field(init=False)
    tallies: dict[str, Tally] = field(init=False)
    log: list[str] = field(default_factory=list)
    """Readable lines, with what no player sees of others."""
    _potions: set[str] = field(default_factory=lambda: {"resurrect", "poison"})
    _is_wolf: dict[str, dict[str, bool]] = field(init=False)

    def __post_init__(self) -> None:
        self.alive = list(self.roles)
        self.tallies = {name: Tally() for name in self.roles}
        self._is_wolf = {
            name: {
                other: self._is_a_wolf(other)
                for other in self.roles
                if other == name or self._is_a_wolf(name)
            }
            for name in self.roles
        }

    async def play(self) -> Side | None:
        """The side that won; None where the rounds ran out."""
        await self._introduce()
        while self.winner() is None and self.round < self.variant.max_rounds:
            self.round += 1
            await self._night()
            if self.winner() is None:
                await self._day()
        self.log.append(f"Winner: {self.winner() or 'none'}.")
        return self.winner()

    def winner(self) -> Side | None:
        num_wolves = len(self._alive_as(WEREWOLF))
        if num_wolves == 0:
            return "village"
        return "wolves" if 2 * num_wolves >= len(self.alive) else None

    async def _introduce(self) -> None:
        self.log += [f"{name}: {role}" for name, role in self.roles.items()]
        for name, role in self.roles.items():
            await self.host.tell(f"{name}, you are a {role}.", to=[name])
        wolves = self._alive_as(WEREWOLF)
        await self.host.tell(f"The werewolves are {_listed(wolves)}.", to=wolves)

    async def _night(self) -> None:
        victim = await self._wolves_choose()
        is_saved, poisoned = await self._witch_acts(victim)
        await self._seer_looks()
        died = [n for n in self.alive if n == poisoned or (n == victim and not is_saved)]
        await self._announce(f"Night {self.round} is over. Died: {_listed(died)}.")
        has_last_words = self.round == 1
        await self._bury(died, has_last_words=has_last_words, may_shoot=set(died) - {poisoned})

    async def _day(self) -> None:
        for _ in range(self.variant.num_talks):
            await self._talk("talk", self.alive)
        votes = await self._choose(
            "vote", {name: [n for n in self.alive if n != name] for name in self.alive}
        )
        said = ", ".join(f"{name} for {vote or NOBODY}" for name, vote in votes.items())
        out = self._most_named(votes)
        await self._announce(f"Day {self.round}, votes: {said}. Voted out: {out or NOBODY}.")
        died = [out] if out else []
        await self._bury(died, has_last_words=True, may_shoot=set(died))

    async def _wolves_choose(self) -> str | None:
        wolves = self._alive_as(WEREWOLF)
        for _ in range(self.variant.num_plots if len(wolves) > 1 else 0):
            await self._talk("plot", wolves)
        victim = self._most_named(await self._choose("kill", dict.fromkeys(wolves, self.alive)))
        await self._tell(f"The werewolves attack {victim or NOBODY}.", to=wolves)
        return victim

    async def _witch_acts(self, victim: str | None) -> tuple[bool, str | None]:
        """Whether the victim is saved, and whom she poisons."""
        for witch in self._alive_as("witch"):
            if victim and victim != witch and "resurrect" in self._potions:
                await self._tell(f"Tonight the werewolves attacked {victim}.", to=[witch])
                if await self._choose_alone(witch, "resurrect", [NO, YES]) == YES:
                    self._potions.remove("resurrect")
                    return True, None
            if "poison" in self._potions:
                options = [NOBODY, *(n for n in self.alive if n != witch)]
                poisoned = await self._choose_alone(witch, "poison", options)
                if poisoned not in (None, NOBODY):
                    self._potions.remove("poison")
                    return False, poisoned
        return False, None

    async def _seer_looks(self) -> None:
        for seer in self._alive_as("seer"):
            known = self._is_wolf[seer]
            options = [n for n in self.alive if n not in known]
            seen = await self._choose_alone(seer, "check", options) if options else None
            if seen:
                known[seen] = self._is_a_wolf(seen)
                is_one = "is" if known[seen] else "is not"
                await self._tell(f"{seen} {is_one} a werewolf.", to=[seer])

    async def _bury(
        self, died: Sequence[str], *, has_last_words: bool, may_shoot: set[str]
    ) -> None:
        self.alive = [name for name in self.alive if name not in died]
        for name in died:
            if has_last_words and self.variant.has_last_words:
                (text,) = await self.host.ask([self._question(name, "last_words", ())])
                await self._announce(f"{name}'s last words: {(text or '').strip()}")
            if name in may_shoot and self.roles[name] == "hunter":
                shot = await self._choose_alone(name, "shoot", [NOBODY, *self.alive])
                if shot not in (None, NOBODY):
                    self.alive.remove(shot)
                    await self._announce(f"{name} was the hunter and shoots {shot}.")

    async def _choose(
        self, kind: Kind, options: Mapping[str, Sequence[str]]
    ) -> dict[str, str | None]:
        """Name to choice, None where the answer is no option; nobody sees those of others."""
        answers = await self.host.ask([self._question(n, kind, of) for n, of in options.items()])
        chosen: dict[str, str | None] = {}
        for (name, choices), answer in zip(options.items(), answers, strict=True):
            chosen[name] = choice = read_choice(answer, choices)
            self.tallies[name].num_choices += 1
            self.tallies[name].num_invalid += choice is None
            self._note(name, kind, choice or f"no option: {answer!r:.60}")
        return chosen

    async def _choose_alone(self, name: str, kind: Kind, options: Sequence[str]) -> str | None:
        return (await self._choose(kind, {name: options}))[name]

    async def _talk(self, kind: Kind, names: Sequence[str]) -> None:
        said = await self.host.talk([self._question(name, kind, ()) for name in names])
        for name, text in zip(names, said, strict=True):
            self._note(name, kind, " ".join((text or "").split()))

    def _note(self, name: str, kind: Kind, said: str) -> None:
        self.log.append(f"{self.round} {name} ({self.roles[name]}) {kind}: {said}")

    async def _announce(self, text: str) -> None:
        """To all, also the dead, who have a last word and a last shot."""
        await self._tell(text, to=list(self.roles))

    async def _tell(self, text: str, *, to: Sequence[str]) -> None:
        self.log.append(text)
        await self.host.tell(text, to=to)

    def _question(self, name: str, kind: Kind, options: Sequence[str]) -> Question:
        view = View(
            name=name,
            role=self.roles[name],
            round=self.round,
            alive=tuple(self.alive),
            is_wolf=dict(self._is_wolf[name]),
        )
        return Question(kind=kind, options=tuple(options), view=view)

    def _most_named(self, votes: Mapping[str, str | None]) -> str | None:
        counts = Counter(vote for vote in votes.values() if vote)
        first = [name for name in self.alive if counts[name] == max(counts.values(), default=-1)]
        return self.lots.choice(first) if first else None

    def _alive_as(self, role: Role) -> list[str]:
        return [name for name in self.alive if self.roles[name] == role]

    def _is_a_wolf(self, name: str) -> bool:
        return self.roles[name] == WEREWOLF


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or NOBODY
