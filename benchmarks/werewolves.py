"""What a game of Werewolves costs: its time without a model, and the tokens that it makes.

    python -m benchmarks.werewolves MODEL_DIR

First, games a minute where all choose by lot: the rules alone, and through agentscope's hub and
pipelines. Then how often the werewolves of the laptop's six players win who choose nobody, by lot
among all, or by lot among the others; the village chooses by lot, and the seer votes for a werewolf
that it has found. Last, whole games of model players on a scripted engine, which chooses by lot and
says one sentence where it may speak: "of samples" are the tokens of all training samples if each
were read alone, and "read" what a forward pass of training reads, since samples share what they
begin with; "prompt tokens read" what the local engine reads beside what its cache holds. All roles
are trained. MODEL_DIR is needed for its tokenizer only.
"""

import argparse
import asyncio
import json
import os
import platform
import random
import re
import time
from collections.abc import Callable, Sequence
from typing import Any

from transformers import AutoTokenizer

from astuner.engine.protocol import Observe, Sampling
from astuner.inference.template import ChatTemplate
from astuner.tuner import ModelTuner
from astuner.types import Completion
from benchmarks.merging import make_chat_over, what_joining_saves
from tutorial.example_werewolves.game import (
    WEREWOLF,
    DirectHost,
    Game,
    Host,
    Kind,
    Player,
    Role,
    Variant,
    View,
    deal_roles,
)
from tutorial.example_werewolves.hub import HubHost
from tutorial.example_werewolves.players import BriefPlayer, RandomPlayer, ReActPlayer

NINE = Variant(roles={"werewolf": 3, "villager": 3, "seer": 1, "witch": 1, "hunter": 1})
SIX = Variant(
    roles={"werewolf": 2, "villager": 3, "seer": 1}, num_plots=0, num_talks=0, has_last_words=False
)
SENTENCE = "I was at home all night, and I find it odd that nobody heard the door."
Seat = Callable[[str, Role], Player]


class ReadingEngine:
    """Answers by what the whole prompt asks; keeps no weights and takes no time."""

    weight_version = 0

    def __init__(self, template: ChatTemplate, lots: random.Random) -> None:
        self._template, self._lots = template, lots

    async def generate(
        self,
        prompt_ids: Sequence[int],
        sampling: Sampling,
        *,
        caller: str,
        index: int,
        observe: Observe | None = None,
    ) -> Completion:
        text = self._answer(self._template.decode(prompt_ids))
        ids = (*self._template.encode(text), min(self._template.stop_ids))
        return Completion(
            ids=ids, logprobs=(-0.5,) * len(ids), finish_reason="stop", weight_version=0
        )

    def _answer(self, prompt: str) -> str:
        if prompt.endswith("assistant\n"):
            brief = re.search(r"\? ([^?]+)\?\s*\S*\s*\S*assistant\n$", prompt)
            return self._lots.choice(brief[1].split(", ")) if brief else SENTENCE
        *_, asked = re.findall(r"Choose one of: (.*?)\.", prompt)
        arguments = json.dumps({"choice": self._lots.choice(asked.split(", "))})
        name = ' "generate_response", "arguments":' if prompt.endswith('"name":') else ""
        return f"{name} {arguments}}}\n</tool_call>"


async def play(variant: Variant, seed: int, *, seat: Seat, make_host: Callable[..., Host]) -> Game:
    roles = deal_roles(variant, random.Random(f"roles {seed}"))
    game = Game(
        variant=variant,
        roles=roles,
        host=make_host({name: seat(name, role) for name, role in roles.items()}),
        lots=random.Random(f"lots {seed}"),
    )
    await game.play()
    return game


async def games_a_minute(make_host: Callable[..., Host], num_games: int) -> dict[str, float]:
    started, num_choices = time.perf_counter(), 0
    for seed in range(num_games):
        game = await play(
            NINE,
            seed,
            seat=lambda name, _, seed=seed: RandomPlayer(random.Random(f"{name} {seed}")),
            make_host=make_host,
        )
        num_choices += sum(tally.num_choices for tally in game.tallies.values())
    seconds = time.perf_counter() - started
    return {
        "games a minute": round(num_games / seconds * 60),
        "choices a game": round(num_choices / num_games, 1),
    }


class SilentPlayer(RandomPlayer):
    async def decide(self, kind: Kind, options: Sequence[str], view: View) -> str | None:
        return None


WOLVES: dict[str, Callable[[random.Random], Player]] = {
    "nobody": SilentPlayer,
    "by lot among all": lambda lots: RandomPlayer(lots, informed=()),
    "by lot among the others": RandomPlayer,
}


async def wins_of_wolves(make_wolf: Callable[[random.Random], Player], num_games: int) -> str:
    """Their share, with the half width of its 95% interval."""
    won = 0
    for seed in range(num_games):

        def seat(name: str, role: Role, seed: int = seed) -> Player:
            lots = random.Random(f"{name} {seed}")
            return make_wolf(lots) if role == WEREWOLF else RandomPlayer(lots)

        game = await play(SIX, seed, seat=seat, make_host=DirectHost)
        won += game.winner() == "wolves"
    share = won / num_games
    return f"{share:.3f} +- {1.96 * (share * (1 - share) / num_games) ** 0.5:.3f}"


async def tokens_of_a_game(
    template: ChatTemplate, variant: Variant, seed: int, *, is_brief: bool
) -> dict[str, Any]:
    chat = make_chat_over(ReadingEngine(template, random.Random(f"model {seed}")), template)
    tuner = ModelTuner(chat)

    def seat(name: str, role: Role) -> Player:
        model = tuner.as_agentscope_model(name, role)
        if is_brief:
            return BriefPlayer(model, shows_examples=True)
        return ReActPlayer(name, role, model)

    game = await play(variant, seed, seat=seat, make_host=HubHost)
    return {"rounds": game.round, **what_joining_saves(chat.recorder.calls)}


def mean(games: Sequence[dict[str, Any]]) -> dict[str, float]:
    def of(value: Callable[[dict[str, Any]], float]) -> float:
        return round(sum(map(value, games)) / len(games), 1)

    return {
        "rounds": of(lambda game: game["rounds"]),
        "calls": of(lambda game: game["calls"]),
        "sequences": of(lambda game: game["joined"]["samples"]),
        "trained": of(lambda game: game["joined"]["trained"]),
        "of samples": of(lambda game: game["joined"]["of samples"]),
        "read": of(lambda game: game["joined"]["read"]),
        "prompt tokens": of(lambda game: game["prompt tokens"]),
        "prompt tokens read": of(lambda game: game["prompt tokens read"]),
    }


async def measure(template: ChatTemplate, *, num_games: int, num_model_games: int) -> None:
    for name, make_host in (("rules alone", DirectHost), ("hub and pipelines", HubHost)):
        print(f"nine players by lot, {name}: {await games_a_minute(make_host, num_games)}")
    for name, make_wolf in WOLVES.items():
        print(f"six players, werewolves choose {name}: {await wins_of_wolves(make_wolf, 3000)}")
    for name, variant, is_brief in (
        ("nine ReAct agents", NINE, False),
        ("six brief players", SIX, True),
    ):
        games = [
            await tokens_of_a_game(template, variant, seed, is_brief=is_brief)
            for seed in range(num_model_games)
        ]
        print(f"{name}, mean of {num_model_games} games: {json.dumps(mean(games))}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model_dir")
    parser.add_argument("--games", type=int, default=500)
    parser.add_argument("--model-games", type=int, default=10)
    arguments = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores")
    template = ChatTemplate(AutoTokenizer.from_pretrained(arguments.model_dir))
    asyncio.run(measure(template, num_games=arguments.games, num_model_games=arguments.model_games))


if __name__ == "__main__":
    main()
