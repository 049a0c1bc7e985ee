"""A game of TextArena, of one player or several: `TextArenaWorld(id="TicTacToe-v0")`.

Owns whose turn it is, how the others play and what a player reads. Needs textarena
(`pip install 'astuner[textarena]'`).
"""

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from astuner.env_service.adapters.seeds import SeededWorld, task_seed

_OFFERED = re.compile(r"\[[^\[\]\n]+\]")
_MOST_TURNS_OF_OTHERS = 500
"""In a row, before the game counts as stuck."""
_GAME = -1
"""Who speaks, where it is no player."""


class TextArenaWorld(SeededWorld):
    """A task is the seed of a game; the seed of the episode is that of the others.

    An observation is what was said to the player since their last turn, and the game's own words
    answer a move that breaks its rules. The reward comes at the end, as the game gives it: mostly
    1, 0 or -1. `info["player"]` is whose turn it is, as the number that the game calls them.
    """

    def __init__(
        self,
        *,
        id: str = "TicTacToe-v0",
        num_players: int = 2,
        player: int = 0,
        opponent: str | Sequence[str] = "random",
        num_tasks: int | None = None,
        num_validation_tasks: int | None = None,
        **game_options: Any,
    ) -> None:
        """`player` is ours, and the rewards are theirs. `opponent` is "random": of what stands in
        brackets in what they last read; or a list of actions, taken in turn from the first again;
        or "self": every turn is the agent's. All else goes to `textarena.make`."""
        del num_tasks, num_validation_tasks  # of `task_ids`
        if not 0 <= player < num_players:
            raise ValueError(f"{id}: player {player} is none of 0 to {num_players - 1}")
        if (isinstance(opponent, str) and opponent not in ("random", "self")) or not opponent:
            raise ValueError(
                f"{id}: opponent is {opponent!r}; expected 'random', 'self' or a list of actions"
            )
        self._id = id
        self._num_players = num_players
        self._player = player
        self._opponent = opponent
        self._game = _make_game(id, game_options)
        self._chance = random.Random(0).getstate()
        self._others = random.Random(0)
        self._num_moves_of_others = 0
        self._rewards: Mapping[int, float] = {}

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        task = task_seed(options, seed=seed)
        self._others = random.Random(task if seed is None else seed)
        self._num_moves_of_others, self._rewards = 0, {}
        with self._own_chance():
            self._begin(task)
            is_over = self._play_others()
        if is_over or not self._is_ours():
            raise RuntimeError(f"{self._id}, task {task}: player {self._player} has no turn")
        return self._read(), {"player": self._turn()}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        with self._own_chance():
            is_over = self._move(action) or self._play_others()
        if not is_over:
            is_stuck = not self._is_ours()
            return self._read(), 0.0, False, is_stuck, {"player": self._turn()}
        self._rewards, ends = self._game.close()
        reward = float(self._rewards.get(self._player, 0.0))
        reason = str(ends[self._player].get("reason") or "")
        info = {
            "player": self._player,
            "rewards": {str(who): float(value) for who, value in self._rewards.items()},
            "roles": {str(who): str(end.get("role")) for who, end in ends.items()},
            "reason": reason,
        }
        said = self._said_to(self._player)
        return "\n".join(part for part in (said, reason) if part), reward, True, False, info

    def evaluate(self, *, sparse: bool = False) -> float | None:
        """Sparse: whether our player won."""
        return float(self._rewards.get(self._player, 0.0) > 0) if sparse else None

    @contextmanager
    def _own_chance(self) -> Iterator[None]:
        """TextArena throws dice with Python's global generator, which others use too."""
        outside = random.getstate()
        random.setstate(self._chance)
        try:
            yield
        finally:
            self._chance = random.getstate()
            random.setstate(outside)

    def _begin(self, task: int) -> None:
        try:
            with _missing_corpus_named(self._id):
                self._game.reset(num_players=self._num_players, seed=task)
        except AssertionError as error:
            raise ValueError(
                f"{self._id} does not begin with num_players={self._num_players}: {error}"
            ) from error

    def _is_ours(self) -> bool:
        return self._opponent == "self" or self._turn() == self._player

    def _turn(self) -> int:
        return int(self._game.state.current_player_id)

    def _move(self, action: str) -> bool:
        """Whether the game is over."""
        is_over, _ = self._game.step(action=str(action))
        return bool(is_over)

    def _play_others(self) -> bool:
        """Until it is our turn: whether the game is over."""
        for _ in range(_MOST_TURNS_OF_OTHERS):
            if self._is_ours():
                return False
            if self._move(self._choose_for_other()):
                return True
        return False

    def _choose_for_other(self) -> str:
        read = self._said_to(self._turn())
        self._num_moves_of_others += 1
        if not isinstance(self._opponent, str):
            return self._opponent[(self._num_moves_of_others - 1) % len(self._opponent)]
        last = read.rpartition("\n\n")[2]
        offered = _OFFERED.findall(last) or _OFFERED.findall(read)
        return self._others.choice(offered) if offered else "I have nothing to say."

    def _said_to(self, player: int) -> str:
        """What others said to a player since they last read, which counts as read."""
        state = self._game.state
        said = state.observations[player]
        state.observations[player] = []
        return "\n".join(
            message.strip() if sender == _GAME else f"[Player {sender}] {message.strip()}"
            for sender, message, _ in said
            if sender != player
        )

    def _read(self) -> str:
        said = self._said_to(self._turn())
        if self._opponent != "self" or self._num_players == 1:
            return said
        return f"It is the turn of player {self._turn()}.\n{said}"


def _make_game(id: str, game_options: Mapping[str, Any]) -> Any:
    import textarena  # type: ignore[import-not-found]  # an extra

    with _missing_corpus_named(id):
        return textarena.make(id, **game_options)


@contextmanager
def _missing_corpus_named(id: str) -> Iterator[None]:
    try:
        yield
    except LookupError as error:  # as NLTK says that a corpus is not there
        wanted = re.search(r"nltk\.download\('(\w+)'\)", str(error))
        if wanted is None:
            raise
        raise RuntimeError(
            f"TextArena's {id} needs the NLTK data {wanted[1]!r}, which is not on this machine; "
            f"`python -m nltk.downloader {wanted[1]}` fetches it"
        ) from error
