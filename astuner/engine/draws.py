"""The random numbers of one call: one for each token, in order."""

import random
from collections.abc import Sequence


class Draws:
    """A stream of numbers in [0, 1), of which the next ones may be looked at."""

    def __init__(self, name: str) -> None:
        """The same name gives the same numbers."""
        self._random = random.Random(name).random
        self._ahead: list[float] = []

    def take(self) -> float:
        """The number of the next token."""
        return self._ahead.pop(0) if self._ahead else self._random()

    def take_several(self, count: int) -> list[float]:
        """Those of so many next tokens."""
        if self._ahead:
            return [self.take() for _ in range(count)]
        draw = self._random
        return [draw() for _ in range(count)]

    def give_back(self, numbers: Sequence[float]) -> None:
        """Of the numbers that were taken last no use was made; they are the next ones again."""
        self._ahead[:0] = numbers

    def look(self, count: int) -> list[float]:
        """Those of so many next tokens, which `take` gives later."""
        while len(self._ahead) < count:
            self._ahead.append(self._random())
        return self._ahead[:count]
