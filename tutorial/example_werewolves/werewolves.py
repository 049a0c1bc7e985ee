"""Werewolves as a workflow: any roles are trained, against others or against themselves."""

import random
from collections import Counter
from collections.abc import Mapping
from typing import Any

from astuner import ModelTuner, Workflow, WorkflowOutput, WorkflowTask

from .game import ROLES, WEREWOLF, Game, Player, Role, Side, Variant, deal_roles
from .hub import HubHost
from .players import BriefPlayer, RandomPlayer, ReActPlayer

HELD_OUT_GAMES = 1_000_000
"""Validation counts its games from here, since random_dummy gives both splits the same numbers."""
RANDOM = "random"
"""Opponents that choose by lot and ask no model."""


class WerewolvesWorkflow(Workflow):
    """One game. Its number, the task, deals the roles and draws the lots.

    So attempts at one task differ by what models say and by nothing else. The reward is by player:
    1 for a game won, 0 for one lost, less `penalty` times the share of the player's own choices
    that were none of the options. A success is a game won by the trained side, or by the werewolves
    where both are trained.
    """

    name: str = "werewolves_workflow"
    trainable_targets: list[str] | None = [WEREWOLF]  # noqa: RUF012  # pydantic copies it

    async def execute(self, workflow_task: WorkflowTask, model_tuner: ModelTuner) -> WorkflowOutput:
        config = model_tuner.config
        settings = config.werewolves
        variant = Variant(**settings.variant)
        number = workflow_task.task.metadata["random_number"]
        seed = number + HELD_OUT_GAMES * workflow_task.is_validation
        roles = deal_roles(variant, random.Random(f"roles {seed}"))
        agents = _agent_names(roles)
        targets = config.astuner.rollout.trainable_targets or self.trainable_targets or ROLES
        trained = {agents[name]: name for name, role in roles.items() if role in targets}

        def seat(name: str, role: Role) -> Player:
            if settings.opponents == RANDOM and agents[name] not in trained:
                return RandomPlayer(random.Random(f"{name} {seed}"))
            other = settings.opponents
            model = model_tuner.as_agentscope_model(agents[name], role, debug_model=other)
            return _model_player(settings, name, role, model)

        game = Game(
            variant=variant,
            roles=roles,
            host=HubHost({name: seat(name, role) for name, role in roles.items()}),
            lots=random.Random(f"lots {seed}"),
        )
        winner = await game.play()
        invalid = {agent: game.tallies[name].num_invalid for agent, name in trained.items()}
        return WorkflowOutput(
            reward={a: reward_of(game, name, settings.penalty) for a, name in trained.items()},
            is_success=winner == side_of(WEREWOLF if WEREWOLF in targets else targets[0]),
            metadata={
                "winner": winner or "none",
                "roles": dict(roles),
                "trained": trained,
                "rounds": game.round,
                "invalid_choices": invalid,
                "log": "\n".join(game.log),
            },
        )


def reward_of(game: Game, name: str, penalty: float) -> float:
    tally = game.tallies[name]
    share = tally.num_invalid / max(1, tally.num_choices)
    return float(game.winner() == side_of(game.roles[name])) - penalty * share


def side_of(role: str) -> Side:
    return "wolves" if role == WEREWOLF else "village"


def _model_player(settings: Any, name: str, role: Role, model: Any) -> Player:
    match settings.players:
        case "brief":
            return BriefPlayer(model, shows_examples=settings.shows_examples)
        case "react":
            return ReActPlayer(name, role, model)
        case other:
            raise ValueError(f"werewolves.players is {other!r}; use brief or react")


def _agent_names(roles: Mapping[str, Role]) -> dict[str, str]:
    """Player to the name of its agent, such as werewolf_2: whoever sits there, a role is a role."""
    seen: Counter[str] = Counter()
    named: dict[str, str] = {}
    for name, role in roles.items():
        seen[role] += 1
        named[name] = f"{role}_{seen[role]}"
    return named
