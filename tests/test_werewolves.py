"""Werewolves of the tutorial: its rules, who learns what, who wins how often, and its training."""

import asyncio
import json
import random
import re
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from functools import cache
from itertools import permutations
from math import sqrt
from pathlib import Path

import pytest

pytest.importorskip("agentscope")

from omegaconf import OmegaConf

from astuner.config.load import load_config
from astuner.run_dir import RunDir, read_json_lines
from astuner.types import Task
from tests.episodes import run_episode
from tests.fakes import ScriptedEngine
from tests.test_multi_agent import settings
from tests.test_rollout import attempt as attempt_at
from tutorial.example_werewolves.game import (
    NAMES,
    NO,
    NOBODY,
    WEREWOLF,
    YES,
    DirectHost,
    Game,
    Variant,
    View,
    deal_roles,
    read_choice,
)
from tutorial.example_werewolves.hub import HubHost
from tutorial.example_werewolves.players import EXAMPLES, BriefPlayer, RandomPlayer
from tutorial.example_werewolves.werewolves import WerewolvesWorkflow

FOLDER = Path(__file__).parents[1] / "tutorial" / "example_werewolves"
NINE = Variant(roles={"werewolf": 3, "villager": 3, "seer": 1, "witch": 1, "hunter": 1})
SEATS = dict(
    zip(NAMES, ["werewolf"] * 3 + ["villager"] * 3 + ["seer", "witch", "hunter"], strict=False)
)
"""Ann, Ben and Cleo are the wolves, Gus is the seer, Hal the witch and Ida the hunter."""


def quiet(**roles):
    return Variant(roles=roles, num_plots=0, num_talks=0, has_last_words=False)


class Scripted:
    """Answers by (round, kind), or else takes the first of what costs nothing."""

    def __init__(self, script):
        self.script = script
        self.heard = []
        self.asked = []

    async def hear(self, speaker, text):
        self.heard.append(f"{speaker}: {text}")

    async def decide(self, kind, options, view):
        self.asked.append((kind, tuple(options), view))
        said = self.script.get((view.round, kind))
        if isinstance(said, dict):
            said = said.get(view.name)
        if not options:
            return said or f"{kind} of {view.name}"
        return said or {"resurrect": NO, "poison": NOBODY, "shoot": NOBODY}.get(kind, options[0])


def game_of(players, *, variant=NINE, roles=SEATS, seed=0, host=DirectHost):
    return Game(variant=variant, roles=roles, host=host(players), lots=random.Random(seed))


def play(script, **changes):
    """Winner, the game and the players."""
    players = {name: Scripted(script) for name in changes.get("roles", SEATS)}
    game = game_of(players, **changes)
    return asyncio.run(game.play()), game, players


VILLAGE_WINS = {
    (1, "kill"): "Dan",
    (1, "resurrect"): YES,
    (1, "check"): "Ann",
    (1, "vote"): "Ann",
    (2, "kill"): "Gus",
    (2, "poison"): "Ben",
    (2, "check"): "Cleo",
    (2, "vote"): "Cleo",
}
WOLVES_WIN = {
    (1, "kill"): "Gus",
    (1, "vote"): "Hal",
    (2, "kill"): "Ida",
    (2, "shoot"): "Ann",
    (2, "vote"): "Dan",
}
HUNTER_DECIDES = {
    (1, "kill"): "Gus",
    (1, "vote"): "Ann",
    (2, "kill"): "Dan",
    (2, "poison"): "Ben",
    (2, "vote"): "Ida",
    (2, "shoot"): "Cleo",
}
HUNTER_IS_POISONED = {
    (1, "kill"): "Ida",
    (1, "poison"): "Ida",
    (1, "shoot"): "Ann",
    (1, "vote"): "Dan",
    (2, "kill"): "Eva",
}
COURSES = [
    (VILLAGE_WINS, "village", 2, {"Dan", "Eva", "Finn", "Hal", "Ida"}),
    (WOLVES_WIN, "wolves", 2, {"Ben", "Cleo", "Eva", "Finn"}),
    (HUNTER_DECIDES, "village", 2, {"Eva", "Finn", "Hal"}),
    (HUNTER_IS_POISONED, "wolves", 2, {"Ann", "Ben", "Cleo", "Finn", "Gus", "Hal"}),
]


@pytest.mark.parametrize("host", [DirectHost, HubHost])
@pytest.mark.parametrize(("script", "winner", "rounds", "alive"), COURSES)
def test_a_scripted_game_takes_its_stated_course(script, winner, rounds, alive, host):
    found, game, _ = play(script, host=host)
    assert (found, game.round, set(game.alive)) == (winner, rounds, alive)


def test_the_same_script_gives_the_same_log_on_either_host():
    (_, direct, a), (_, hub, b) = (play(VILLAGE_WINS, host=host) for host in (DirectHost, HubHost))
    assert direct.log == hub.log
    assert {name: player.heard for name, player in a.items()} == {
        name: player.heard for name, player in b.items()
    }
    assert all([q[:2] for q in a[name].asked] == [q[:2] for q in b[name].asked] for name in a)


def test_in_a_talk_each_hears_those_before_and_after_but_not_itself():
    _, _, players = play(VILLAGE_WINS, host=HubHost)
    first_talk = [
        [line for line in player.heard if ": talk of" in line][:8] for player in players.values()
    ]
    for name, heard in zip(players, first_talk, strict=True):
        assert heard == [f"{other}: talk of {other}" for other in players if other != name]


def test_last_words_are_those_of_the_first_night_and_of_who_is_voted_out():
    _, game, _ = play(WOLVES_WIN)
    said = [line.split("'s")[0] for line in game.log if "last words" in line]
    assert said == ["Gus", "Hal", "Dan"]


def test_a_tie_is_decided_by_a_lot_that_the_seed_draws():
    split = {(1, "kill"): {"Ann": "Dan", "Ben": "Eva", "Cleo": "Finn"}}
    victims = [
        next(line for line in play(split, seed=seed)[1].log if "attack" in line)
        for seed in [*range(20), *range(20)]
    ]
    assert victims[:20] == victims[20:]
    assert len(set(victims)) == 3


def test_an_answer_that_is_no_option_is_counted_for_that_player_and_nothing_comes_of_it():
    script = {
        (1, "kill"): "the moon",
        (1, "check"): "me",
        (1, "poison"): "all of them",
        (1, "vote"): {"Ann": "Ann", "Ben": "Dan"},
        (2, "vote"): "!",
    }
    _, game, _ = play(script, variant=replace(NINE, max_rounds=1))
    wrong = {name: tally.num_invalid for name, tally in game.tallies.items() if tally.num_invalid}
    # A vote for oneself is none.
    assert wrong == {"Ann": 2, "Ben": 1, "Cleo": 1, "Gus": 1, "Hal": 1}
    assert "The werewolves attack nobody." in game.log
    assert "Night 1 is over. Died: nobody." in game.log


def test_a_game_of_invalid_answers_ends_with_its_rounds_and_without_a_winner():
    class Mute(Scripted):
        async def decide(self, kind, options, view):
            return None

    game = game_of({name: Mute({}) for name in SEATS}, variant=replace(NINE, max_rounds=3))
    assert asyncio.run(game.play()) is None
    assert (game.round, len(game.alive)) == (3, 9)


@pytest.mark.parametrize(
    ("said", "choice"),
    [("Ann", "Ann"), (" ann.\n", "Ann"), ("**Ann**", "Ann"), ("Ann, Ben", None), ("", None)],
)
def test_a_choice_is_one_option_and_nothing_else(said, choice):
    assert read_choice(said, ["Ann", "Ben"]) == choice


@pytest.mark.parametrize(
    ("roles", "said"),
    [
        ({"werewolf": 2, "villager": 2}, "fewer than half"),
        ({"villager": 3}, "at least one"),
        ({"werewolf": 1, "villager": 40}, "at most 12"),
        ({"werewolf": 1, "villager": 3, "cupid": 1}, "no role"),
        ({"werewolf": 1, "villager": 3, "seer": 2}, "more than one seer"),
    ],
)
def test_a_table_that_cannot_be_played_is_refused(roles, said):
    with pytest.raises(ValueError, match=said):
        Variant(roles=roles)


class Watched(RandomPlayer):
    """Chooses by lot among all, and keeps what it was asked and told."""

    def __init__(self, lots):
        super().__init__(lots, informed=())
        self.asked, self.heard = [], []

    async def hear(self, speaker, text):
        self.heard.append((speaker, text))

    async def decide(self, kind, options, view):
        self.asked.append((kind, tuple(options), view))
        return await super().decide(kind, options, view)


def random_game(seed, *, variant=NINE, make=Watched):
    roles = deal_roles(variant, random.Random(f"roles {seed}"))
    players = {name: make(random.Random(f"{name} {seed}")) for name in roles}
    game = game_of(players, variant=variant, roles=roles, seed=f"lots {seed}")
    return asyncio.run(game.play()), game, players


@pytest.fixture(scope="module")
def random_games():
    return [random_game(seed) for seed in range(60)]


def test_the_dead_do_not_act_and_are_not_chosen(random_games):
    for _, _, players in random_games:
        for name, player in players.items():
            for kind, options, view in player.asked:
                is_alive = name in view.alive
                assert is_alive == (kind not in ("last_words", "shoot"))
                assert set(options) <= {*view.alive, NOBODY, YES, NO}
                assert name not in options or kind == "kill"


def test_each_is_asked_for_what_its_role_may_do(random_games):
    own = {"plot": WEREWOLF, "kill": WEREWOLF, "check": "seer", "shoot": "hunter"}
    own |= {"resurrect": "witch", "poison": "witch"}
    seen = Counter()
    for _, game, players in random_games:
        for name, player in players.items():
            for kind, _, view in player.asked:
                assert own.get(kind, game.roles[name]) == game.roles[name] == view.role
                seen[kind] += 1
    assert set(seen) == {*own, "talk", "vote", "last_words"}


def test_each_potion_is_used_once_and_one_in_a_night(random_games):
    used = Counter()
    for _, game, _ in random_games:
        lines = [line for line in game.log if " (witch) " in line]
        saved = [line.split()[0] for line in lines if line.endswith("resurrect: yes")]
        poisoned = [
            line.split()[0] for line in lines if "poison:" in line and not line.endswith(NOBODY)
        ]
        assert len(saved) <= 1 and len(poisoned) <= 1 and not set(saved) & set(poisoned)
        used.update(saved=len(saved), poisoned=len(poisoned))
    assert min(used["saved"], used["poisoned"]) > 5


def test_the_witch_cannot_save_herself(random_games):
    attacked = Counter()
    for _, game, players in random_games:
        (witch,) = (name for name, role in game.roles.items() if role == "witch")
        told = [text for _, text in players[witch].heard if "Tonight" in text]
        attacked.update(text.split()[-1] == f"{witch}." for text in told)
        attacked["asked"] += len(
            [kind for kind, _, _ in players[witch].asked if kind == "resurrect"]
        )
    assert attacked[True] == 0 and attacked[False] == attacked["asked"] > 0


def test_only_wolves_know_wolves_and_only_the_seer_what_it_saw(random_games):
    for _, game, players in random_games:
        wolves = {name for name, role in game.roles.items() if role == WEREWOLF}
        for name, player in players.items():
            role = game.roles[name]
            seen = {m[1] for _, t in player.heard if (m := re.match(r"(\w+) is (not )?a w", t))}
            assert not seen or role == "seer"
            for _, _, view in player.asked:
                known = set(view.is_wolf)
                assert all(view.is_wolf[n] == (n in wolves) for n in known)
                if role == WEREWOLF:
                    assert known == set(game.roles)
                else:
                    assert known - {name} <= seen


def test_what_is_told_to_some_is_heard_by_them_alone(random_games):
    secrets = {
        "The werewolves are": {WEREWOLF},
        "The werewolves attack ": {WEREWOLF},
        "Tonight the werewolves attacked": {"witch"},
    }
    for _, game, players in random_games:
        for name, player in players.items():
            for speaker, text in player.heard:
                for secret, roles in secrets.items():
                    assert not text.startswith(secret) or game.roles[name] in roles
                assert f"you are a {game.roles[name]}" in text or "you are" not in text
                assert speaker == "Moderator" or speaker in players


def test_the_wolves_talk_is_heard_by_wolves_alone():
    _, game, players = play({})
    for name, player in players.items():
        heard = [line for line in player.heard if ": plot of" in line]
        assert bool(heard) == (game.roles[name] == WEREWOLF)


def test_what_was_voted_is_shown_only_once_all_have_voted():
    _, _, players = play(VILLAGE_WINS)
    for player in players.values():
        votes = [i for i, line in enumerate(player.heard) if "votes:" in line]
        assert len(votes) == 2


class EveryCourse:
    """Lots that are all drawn in turn: each play follows one branch, with its probability."""

    def __init__(self):
        self.path = []

    def start(self):
        self._depth, self.probability = 0, Fraction(1)

    def choice(self, options):
        if self._depth == len(self.path):
            self.path.append([0, len(options)])
        index, number = self.path[self._depth]
        self._depth += 1
        self.probability /= number
        return options[index]

    def next_path(self):
        while self.path and self.path[-1][0] + 1 == self.path[-1][1]:
            self.path.pop()
        if self.path:
            self.path[-1][0] += 1
        return bool(self.path)


def exact_chance(variant, roles):
    """Of the wolves, when all choose by lot and spare nobody but at night: over every course."""

    async def main():
        lots, won = EveryCourse(), Fraction(0)
        while True:
            lots.start()
            players = {name: RandomPlayer(lots, informed=("kill",)) for name in roles}
            game = Game(variant=variant, roles=roles, host=DirectHost(players), lots=lots)
            is_won = await game.play() == "wolves"
            won += lots.probability * is_won
            if not lots.next_path():
                return won

    return asyncio.run(main())


@pytest.mark.parametrize("num_villagers", [2, 3, 4])
def test_one_wolf_wins_as_often_as_the_closed_form_says(num_villagers):
    """The wolf survives each day with (alive - 1) / alive, and two die in a round; as in
    Braverman, Etesami and Mossel, "Mafia", Annals of Applied Probability 18 (2008)."""
    expected = Fraction(1)
    for alive in range(num_villagers, 2, -2):
        expected *= Fraction(alive - 1, alive)
    variant = quiet(werewolf=1, villager=num_villagers)
    roles = dict(zip(NAMES, ["werewolf"] + ["villager"] * num_villagers, strict=False))
    assert exact_chance(variant, roles) == expected


def mean(values):
    values = list(values)
    return sum(values, Fraction(0)) / len(values)


@cache
def by_night(alive, potions):
    """The wolves' chance before a night, by the rules alone and not by our code."""
    if (over := ended(alive)) is not None:
        return over
    victims = [i for i, role in enumerate(alive) if role != WEREWOLF]
    return mean(attacked(alive, potions, victim) for victim in victims)


def attacked(alive, potions, victim):
    if "witch" not in alive:
        return buried(alive, {victim}, potions, {victim}, then=by_day)
    witch = alive.index("witch")
    unsaved = [buried(alive, {victim}, potions, {victim}, then=by_day)]
    if "poison" in potions:
        unsaved += [
            buried(alive, {victim, other}, potions - {"poison"}, {victim} - {other}, then=by_day)
            for other in range(len(alive))
            if other != witch
        ]
    if "heal" not in potions or victim == witch:
        return mean(unsaved)
    return mean([mean(unsaved), by_day(alive, potions - {"heal"})])


@cache
def by_day(alive, potions):
    if (over := ended(alive)) is not None:
        return over
    return mean(buried(alive, {i}, potions, {i}, then=by_night) for i in range(len(alive)))


def buried(alive, dead, potions, may_shoot, *, then):
    left = tuple(role for i, role in enumerate(alive) if i not in dead)
    courses = [left]
    if any(alive[i] == "hunter" for i in may_shoot):
        courses += [left[:i] + left[i + 1 :] for i in range(len(left))]
    return mean(then(course, potions) for course in courses)


def ended(alive):
    wolves = alive.count(WEREWOLF)
    if wolves == 0:
        return Fraction(0)
    return Fraction(1) if 2 * wolves >= len(alive) else None


def make_careful(lots):
    return RandomPlayer(lots, informed=("kill",))


@pytest.mark.parametrize("variant", [NINE, quiet(werewolf=2, villager=3, seer=1)])
def test_a_thousand_games_by_lot_end_as_the_rules_say(variant):
    """Within the 99.9% interval of the exact chance; the seeds are always the same."""
    alive = tuple(role for role, number in variant.roles.items() for _ in range(number))
    exact = float(by_night(alive, frozenset({"heal", "poison"})))
    games = (random_game(seed, variant=variant, make=make_careful) for seed in range(1000))
    won = sum(winner == "wolves" for winner, _, _ in games)
    assert abs(won / 1000 - exact) < 3.29 * sqrt(exact * (1 - exact) / 1000)


SIX = {"roles": {"werewolf": 2, "villager": 3, "seer": 1}}
QUIET = {"num_plots": 0, "num_talks": 0, "has_last_words": False}


def configured(*, targets=(WEREWOLF,), **werewolves):
    section = {"variant": SIX, "players": "react", "opponents": None, "penalty": 0.5}
    rollout = {"trainable_targets": list(targets)}
    return OmegaConf.create(
        {"astuner": {"rollout": rollout}, "werewolves": {**section, **werewolves}}
    )


def run(script, *, number=7, index=0, is_validation=False, reference=None, **options):
    """An episode of the workflow, whose policy answers by the script."""
    config = configured(**options)
    rules = settings(
        WerewolvesWorkflow,
        policy=ScriptedEngine(script),
        reference=ScriptedEngine(reference or script),
        trainable_targets=list(config.astuner.rollout.trainable_targets),
        untrained_model="reference",
    )
    rules = replace(rules, episode=replace(rules.episode, config=config, timeout_seconds=60.0))
    task = Task(main_query="", task_id=str(number), metadata={"random_number": number})
    at = attempt_at(task=task, attempt=index, is_validation=is_validation)
    episode = asyncio.run(run_episode(at, rules))
    assert episode.failure is None, episode.failure
    return episode


def calling(choose):
    """Completes the call of `generate_response` that is begun for it, and says a line otherwise."""

    def script(prompt):
        if prompt.endswith("assistant\n"):
            return "I have my reasons."
        (*_, asked) = re.findall(r"Choose one of: (.*?)\.", prompt)
        player = re.search(r"You are (\w+) in", prompt)[1]
        arguments = json.dumps({"choice": choose(player, asked.split(", "))})
        name = ' "generate_response", "arguments":' if prompt.endswith('"name":') else ""
        return f"{name} {arguments}}}\n</tool_call>"

    return script


def the_first(_, options):
    return options[0]


def test_agents_play_by_structured_decisions_and_only_the_targets_are_trained():
    episode = run(calling(the_first))
    metadata = episode.output.metadata
    assert metadata["winner"] in ("wolves", "village")
    assert metadata["invalid_choices"] == {"werewolf_1": 0, "werewolf_2": 0}
    assert episode.verdict.rewards == dict.fromkeys(
        ("werewolf_1", "werewolf_2"), float(metadata["winner"] == "wolves")
    )
    assert {(call.target_tag, call.is_trained) for call in episode.calls} == {
        (WEREWOLF, True),
        ("villager", False),
        ("seer", False),
    }


def test_one_player_whose_answers_stay_invalid_pays_alone_and_the_game_goes_on():
    roles = deal_roles(Variant(**SIX), random.Random("roles 7"))
    broken, other = (name for name, role in roles.items() if role == WEREWOLF)
    episode = run(
        calling(lambda player, options: "the moon" if player == broken else options[0]),
        reference=calling(the_first),
    )
    metadata = episode.output.metadata
    agents = {name: agent for agent, name in metadata["trained"].items()}
    assert metadata["winner"] != "none"
    assert metadata["invalid_choices"][agents[other]] == 0
    assert metadata["invalid_choices"][agents[broken]] > 0
    rewards = episode.verdict.rewards
    assert rewards[agents[broken]] == rewards[agents[other]] - 0.5


def test_in_self_play_each_role_has_its_own_sides_reward():
    targets = (WEREWOLF, "villager", "seer")
    episode = run(calling(the_first), targets=targets)
    winner = episode.output.metadata["winner"]
    assert all(call.is_trained for call in episode.calls)
    assert episode.verdict.rewards == {
        agent: float((winner == "wolves") == agent.startswith(WEREWOLF))
        for agent in (
            f"{WEREWOLF}_1",
            f"{WEREWOLF}_2",
            "seer_1",
            *(f"villager_{i}" for i in (1, 2, 3)),
        )
    }
    assert episode.verdict.is_success == (winner == "wolves")


def first_option(prompt):
    return prompt.split("?")[-2].rsplit(" ", 1)[-1]


BRIEF = {
    "players": "brief",
    "shows_examples": True,
    "variant": {**SIX, **QUIET},
    "opponents": "random",
}


def test_opponents_by_lot_ask_no_model():
    episode = run(first_option, **BRIEF)
    assert {call.target_tag for call in episode.calls} == {WEREWOLF}
    assert set(episode.verdict.rewards) == {"werewolf_1", "werewolf_2"}


def test_the_village_may_be_trained_against_random_wolves():
    episode = run(first_option, targets=("villager", "seer"), **BRIEF)
    assert {call.target_tag for call in episode.calls} == {"villager", "seer"}
    assert episode.verdict.is_success == (episode.output.metadata["winner"] == "village")


def test_a_kind_of_player_that_there_is_not_fails_the_episode_and_names_those_there_are():
    with pytest.raises(AssertionError, match="use brief or react"):
        run(first_option, **{**BRIEF, "players": "clever"})


def test_attempts_at_one_task_have_the_same_roles_and_opponents():
    a, b = (run(first_option, index=index, **BRIEF).output.metadata for index in (0, 1))
    assert a == b


def test_tasks_and_validation_deal_roles_of_their_own():
    dealt = [
        tuple(
            run(first_option, number=n, is_validation=v, **BRIEF).output.metadata["roles"].items()
        )
        for n in range(4)
        for v in (False, True)
    ]
    assert len(set(dealt)) > 4


def test_a_brief_prompt_says_what_the_player_knows_and_nothing_else():
    view = View(
        name="Ann", role="seer", round=2, alive=("Ann", "Ben", "Cleo"), is_wolf={"Ann": False}
    )
    player = BriefPlayer(None, shows_examples=False)
    said = player.messages("vote", ("Ben", "Cleo"), view)[-1]["content"]
    assert said == "You are Ann, a seer.\nWhom do you vote out? Ben, Cleo?"
    seen = replace(view, is_wolf={"Ann": False, "Ben": True})
    said = player.messages("vote", ("Ben", "Cleo"), seen)[-1]["content"]
    assert said == "You are Ann, a seer.\nWerewolves: Ben.\nWhom do you vote out? Ben, Cleo?"


def test_the_names_of_the_examples_are_nobodys():
    assert not {answer for _, answer in EXAMPLES} & set(NAMES)


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.yaml")), ids=lambda file: file.stem)
def test_the_settings_load(file):
    loaded = load_config(file)
    variant = Variant(**OmegaConf.to_container(loaded.config.werewolves.variant))
    targets = loaded.settings.rollout.trainable_targets
    assert set(targets) <= set(variant.roles)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Answers the brief prompts by names, so that games differ."""
    pytest.importorskip("torch")
    from tests.taught_model import make_taught_model

    folder = tmp_path_factory.mktemp("werewolves_model")
    player, names = BriefPlayer(None, shows_examples=False), NAMES[:6]
    conversations = []
    for own, other, answer in permutations(names, 3):
        view = View(name=own, role=WEREWOLF, round=1, alive=names, is_wolf={own: True, other: True})
        asked = player.messages("kill", names, view)
        conversations.append([*asked, {"role": "assistant", "content": answer}])
    make_taught_model(folder, conversations[::5], [], texts=[str(conversations)])
    return folder


@pytest.mark.parametrize("yaml", ["werewolves_laptop", "werewolves_selfplay"])
def test_its_settings_train_a_tiny_model(tmp_path, model, yaml):
    from astuner.cli import main

    given = {
        "model.path": model,
        "model.dtype": "float32",
        "data.train_batch_size": 2,
        "data.max_prompt_length": 600,
        "data.max_validation_tasks": 2,
        "rollout.num_repeat": 6,
        "rollout.max_model_len": 640,
        "trainer_common.total_training_steps": 2,
        "trainer_common.save_freq": 99,
        "trainer_common.val_before_train": "false",
        "trainer_common.optim.lr": 1e-4,
    }
    conf = FOLDER / f"{yaml}.yaml"
    arguments = [f"astuner.{key}={value}" for key, value in given.items()]
    arguments.append("werewolves.shows_examples=false")
    assert main(["--conf", str(conf), "--exp-dir", str(tmp_path / "runs"), *arguments]) == 0
    found = RunDir.latest(tmp_path / "runs", conf.stem)
    assert found is not None
    steps = [line for line in read_json_lines(found.metrics_file) if "rollout/episodes" in line]
    assert [step["rollout/failed_episodes"] for step in steps] == [0, 0]
    assert [step["train/updates"] for step in steps] == [1, 1]
    rewarded = {key for key in steps[0] if re.fullmatch(r"reward/\w+_\d", key)}
    of_wolves = {"reward/werewolf_1", "reward/werewolf_2"}
    assert (rewarded == of_wolves) == (yaml == "werewolves_laptop") and of_wolves <= rewarded
