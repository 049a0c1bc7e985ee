"""A game of TextWorld for each task, made by its own maker: `TextWorldWorld(num_rooms=3)`.

Needs textworld (`pip install 'astuner[textworld]'`), which has wheels for Linux and macOS.
"""

import os
import re
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from astuner.env_service.adapters.seeds import SeededWorld, task_seed

_PROMPT = re.compile(r"\s*(Would you like to RESTART[^\n]*\s*)?>\s*(-=[^\n]*)?\s*\Z")
"""With the line that a screen would show above it."""


class TextWorldWorld(SeededWorld):
    """A task is the seed that a game is made from; there is no chance in playing it.

    `info["admissible_commands"]` are those that do something here. Rewards add up to the share of
    the game's points that was scored.
    """

    def __init__(
        self,
        *,
        num_rooms: int = 2,
        num_objects: int = 4,
        quest_length: int = 3,
        max_steps: int = 50,
        games: str | None = None,
        num_tasks: int | None = None,
        num_validation_tasks: int | None = None,
    ) -> None:
        """A game takes seconds to make. `games` is a folder that keeps them, for all instances and
        runs; without it each instance makes its own."""
        del num_tasks, num_validation_tasks  # of `task_ids`
        import textworld  # type: ignore[import-not-found]  # an extra

        self._textworld = textworld
        self._sizes = (num_rooms, num_objects, quest_length)
        self._max_steps = max_steps
        self._games = Path(games).expanduser() if games else None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._game: Any = None
        self._state: Any = None
        self._num_steps = 0
        self._score = 0.0

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        self.close()
        self._num_steps, self._score = 0, 0.0
        with warnings.catch_warnings():
            # Of Jericho, to each game that is not one of its own list.
            warnings.filterwarnings("ignore", message="Game .* is not fully supported")
            self._game = self._start(task_seed(options, seed=seed))
            self._state = self._game.reset()
        return _tidy(f"{self._state.objective}\n\n{self._state.description}"), self._info()

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        self._num_steps += 1
        is_last = self._num_steps >= self._max_steps
        command = _command(action, self._state.admissible_commands)
        if command is None:
            may = ", ".join(self._state.admissible_commands)
            return f"That does nothing here. Commands: {may}.", 0.0, False, is_last, self._info()
        self._state, _, is_over = self._game.step(command)
        gained, self._score = self._share_scored() - self._score, self._share_scored()
        said = _tidy(_PROMPT.sub("", self._state.feedback))
        return said, gained, bool(is_over), is_last and not is_over, self._info()

    def evaluate(self, *, sparse: bool = False) -> float | None:
        """Sparse: whether all points were scored."""
        return float(self._score >= 1) if sparse else self._score

    def close(self) -> None:
        if self._game is not None:
            self._game.close()
            self._game = None
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def _share_scored(self) -> float:
        return self._state.score / self._state.max_score

    def _info(self) -> dict[str, Any]:
        return {
            "admissible_commands": list(self._state.admissible_commands),
            "score": self._state.score,
            "max_score": self._state.max_score,
        }

    def _start(self, task: int) -> Any:
        if self._games is not None:
            return self._load(self._kept(self._games, task))
        # Stays as long as the game: the interpreter crashes where its file is gone.
        self._folder = tempfile.TemporaryDirectory(prefix="textworld-")
        return self._load(self._make(Path(self._folder.name) / "game.z8", task))

    def _load(self, file: Path) -> Any:
        infos = self._textworld.EnvInfos(
            admissible_commands=True,
            description=True,
            max_score=True,
            objective=True,
            score=True,
        )
        return self._textworld.start(str(file), infos)

    def _kept(self, games: Path, task: int) -> Path:
        """The game in the folder, made where it is not there yet; several may make one at once."""
        name = "-".join(map(str, (*self._sizes, task)))
        kept = games / f"{name}.z8"
        if not kept.is_file():
            games.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=games) as folder:
                made = self._make(Path(folder) / "game.z8", task)
                # What is known of the game stands beside it, and is read first.
                os.replace(made.with_suffix(".json"), kept.with_suffix(".json"))
                os.replace(made, kept)
        return kept

    def _make(self, file: Path, task: int) -> Path:
        options = self._textworld.GameOptions()
        options.nb_rooms, options.nb_objects, options.quest_length = self._sizes
        options.seeds = task
        options.path = str(file)
        self._textworld.make(options)
        return file


def _tidy(text: str) -> str:
    return re.sub(r"\n{3,}", "\n\n", text.strip())


def _command(action: str, admissible: Sequence[str]) -> str | None:
    """The last line that is a command which does something; None without any.

    Nothing else reaches the game: "restart" and "quit" are questions to whoever sits at a screen,
    several commands fit in one line, and the interpreter crashes at characters of other scripts.
    """
    by_words = {command.lower(): command for command in admissible}
    lines = [line.strip(" \t>`*.\"'").lower() for line in action.splitlines()]
    return next((by_words[line] for line in reversed(lines) if line in by_words), None)
