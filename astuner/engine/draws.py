"""The random numbers of one call: one for each token, in order."""

import random


class Draws:
    """A stream of numbers in [0, 1), of which the next ones may be looked at."""

    def __init__(self, name: str) -> None:
        """The same name gives the same numbers."""
        self._random = random.Random(name).random
        self._ahead: list[float] = []

    def take(self) -> float:
        """The number of the next token."""
        return self._ahead.pop(0) if self._ahead else self._random()

    def give_back(self, number: float) -> None:
        """Of the number that was taken last no use was made; it is the next one again."""
        self._ahead.insert(0, number)

    def look(self, count: int) -> list[float]:
        """Those of so many next tokens, which `take` gives later."""
        while len(self._ahead) < count:
            self._ahead.append(self._random())
        return self._ahead[:count]
