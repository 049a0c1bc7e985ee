"""An environment that asks for a sum, in the words that the taught model knows."""

from astuner.env_service.environment import Environment


class SumWorld(Environment):
    @classmethod
    def task_ids(cls, split, **options):
        return {"train": ["a", "b", "c", "d"], "dev": ["e"]}[split]

    def reset(self, *, seed=None, options=None):
        self._is_right = False
        question = {"role": "user", "content": "What is 2 plus 3?"}
        return [{"role": "system", "content": "Add."}, question], {}

    def step(self, action):
        self._is_right = action.strip() == "5"
        return "Thank you.", float(self._is_right), True, False, {}

    def evaluate(self, *, sparse=False):
        return float(self._is_right)
