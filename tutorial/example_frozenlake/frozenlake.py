"""An agent that walks over a frozen lake: in an environment that the workflow brings along, and in
one that is served."""

import re
from typing import Any

from astuner import ModelTuner, Workflow, WorkflowOutput, WorkflowTask

ACTIONS = {"left": (0, -1), "down": (1, 0), "right": (0, 1), "up": (-1, 0)}
"""In Gymnasium's order: rows down and columns right."""
KINDS = {"_": "ice", "O": "hole", "G": "goal"}
HELD_OUT_MAPS = 1_000_000
"""Validation counts its maps from here, since random_dummy gives both splits the same numbers."""
RULES = (
    "You are P on a frozen lake. Walk to the goal G over ice _ and not into a hole O. "
    "Answer with left, down, right or up."
)
THINKING = " Think first, and end with the word in a block, such as ```right```."
EXAMPLES = (
    ("P O _\n_ _ _\n_ _ G\nice: down. hole: right.", "down"),
    ("_ _ _\n_ P O\n_ _ G\nice: left, down, up. hole: right.", "down"),
    ("_ P _\n_ O _\n_ _ G\nice: left, right. hole: down.", "right"),
    ("_ _ _\n_ O _\n_ P G\nice: left. hole: up. goal: right.", "right"),
)
"""For a model that is too small to do as it is told: it does as it sees."""


class FrozenLake:
    """A map of its own for each seed, on which the goal can be reached."""

    def __init__(self, *, size: int, is_slippery: bool, map_seed: int, seed: int) -> None:
        import gymnasium
        from gymnasium.envs.toy_text.frozen_lake import generate_random_map

        rows = generate_random_map(size=size, seed=map_seed)
        self._env = gymnasium.make("FrozenLake-v1", desc=rows, is_slippery=is_slippery)
        self._cells = [list(row.translate(str.maketrans("SFH", "__O"))) for row in rows]
        self._place, _ = self._env.reset(seed=seed)

    def step(self, action: str) -> tuple[float, bool]:
        """The reward, and whether it is over."""
        number = list(ACTIONS).index(action)
        self._place, reward, terminated, _, _ = self._env.step(number)
        return float(reward), terminated

    def show(self) -> str:
        """The map, and below it what lies around."""
        size = len(self._cells)
        row, column = divmod(int(self._place), size)
        lines = [" ".join(line) for line in self._cells]
        lines[row] = " ".join([*self._cells[row][:column], "P", *self._cells[row][column + 1 :]])
        around: dict[str, list[str]] = {cell: [] for cell in KINDS}
        for action, (down, right) in ACTIONS.items():
            if 0 <= row + down < size and 0 <= column + right < size:
                around[self._cells[row + down][column + right]].append(action)
        said = [f"{KINDS[cell]}: {', '.join(ways)}." for cell, ways in around.items() if ways]
        return "\n".join([*lines, " ".join(said)])


def read_action(text: str) -> str | None:
    """The last fenced word is the action, or without a fence the last one that names one."""
    words = re.findall(r"```\s*(\w+)\s*```", text) or re.findall(r"\w+", text)
    named = [word.lower() for word in words if word.lower() in ACTIONS]
    return named[-1] if named else None


def first_messages(*, shows_examples: bool) -> list[dict[str, Any]]:
    if not shows_examples:
        return [{"role": "system", "content": RULES + THINKING}]
    messages = [{"role": "system", "content": RULES}]
    for seen, answer in EXAMPLES:
        messages.append({"role": "user", "content": seen})
        messages.append({"role": "assistant", "content": answer})
    return messages


async def answer(model_tuner: ModelTuner, messages: list[dict[str, Any]]) -> str:
    reply = await model_tuner(messages)
    return "".join(block["text"] for block in reply.content if block["type"] == "text")


class FrozenLakeWorkflow(Workflow):
    """Brings its own environment; the tasks of random_dummy are numbers of maps."""

    name: str = "frozenlake_workflow"

    async def execute(self, workflow_task: WorkflowTask, model_tuner: ModelTuner) -> WorkflowOutput:
        config = model_tuner.config
        max_steps = config.astuner.rollout.multi_turn.max_steps
        number = workflow_task.task.metadata["random_number"]
        lake = FrozenLake(
            size=config.frozen_lake.frozen_lake_size,
            is_slippery=config.frozen_lake.is_slippery,
            map_seed=number + HELD_OUT_MAPS * workflow_task.is_validation,
            seed=workflow_task.attempt,
        )
        first = first_messages(shows_examples=config.frozen_lake.get("shows_examples", False))
        remembered = 2 * config.frozen_lake.get("turns_remembered", max_steps)
        walked: list[dict[str, Any]] = []
        for _ in range(max_steps):
            asked = [
                *walked[max(0, len(walked) - remembered) :],
                {"role": "user", "content": lake.show()},
            ]
            text = await answer(model_tuner, [*first, *asked])
            walked += [asked[-1], {"role": "assistant", "content": text}]
            action = read_action(text)
            if action is None:  # it stays where it is, and has used up a step
                continue
            reward, is_over = lake.step(action)
            if is_over:
                return WorkflowOutput(reward=reward, is_success=reward == 1)
        return WorkflowOutput(reward=0.0, is_success=False)


class ServedFrozenLakeWorkflow(Workflow):
    """Acts in the environment of the task, which the run has made, and which its judge asks."""

    name: str = "served_frozenlake_workflow"

    async def execute(self, workflow_task: WorkflowTask, model_tuner: ModelTuner) -> WorkflowOutput:
        messages = list(workflow_task.task.init_messages)
        is_over = False
        while not is_over:
            text = await answer(model_tuner, messages)
            seen, _, is_over, _ = workflow_task.gym_env.step(text)
            messages.append({"role": "assistant", "content": text})
            messages.append({"role": "user", "content": seen})
        return WorkflowOutput()
