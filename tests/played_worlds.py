"""Environments that agents of tests play, served for real."""

import os
import signal

from astuner.env_service.environment import Environment


class Counting(Environment):
    """Counts what was said to it until it is `done`; a system prompt goes before the question."""

    tools = ({"type": "function", "function": {"name": "say"}},)

    def __init__(self, *, greeting="You count."):
        self._greeting = greeting
        self._said = []

    @classmethod
    def task_ids(cls, split, **_):
        return {"train": ["a_1", "a_2"], "dev": ["c_1"]}[split]

    def reset(self, *, seed=None, options=None):
        if options["task_id"] == "raises":
            raise RuntimeError("this world is broken")
        question = f"Play {options['task_id']} on {options.get('map', 'no map')}."
        return [
            {"role": "system", "content": self._greeting},
            {"role": "user", "content": question},
        ], {"seed": seed}

    def step(self, action):
        self._said.append(str(action))
        if action == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        is_over = "done" in action
        is_cut = action == "cut"
        seen = f"{len(self._said)} said, {len(action.tool_calls)} calls"
        return seen, float(is_over), is_over, is_cut, {"said": len(self._said)}

    def evaluate(self, *, sparse=False):
        return 1.0 if any("done" in said for said in self._said) else 0.25 * (not sparse)
