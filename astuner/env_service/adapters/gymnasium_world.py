"""Any Gymnasium environment that can be told in text: `GymnasiumWorld(id="Taxi-v4")`.

Owns what an agent reads of one and how its words become an action. Needs gymnasium
(`pip install 'astuner[environments]'`).
"""

import copy
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from astuner.env_service.adapters.seeds import SeededWorld, task_seed

_BLOCK = re.compile(r"```(.*?)```", re.DOTALL)
_NUMBER = re.compile(r"(?<![\w.-])\d{1,9}(?!\w|\.\d)")
_HIGHLIGHTED = re.compile(r"\x1b\[[0-9;]*4[0-7][0-9;]*m(.*?)\x1b\[0m", re.DOTALL)
_ESCAPE = re.compile(r"\x1b\[[0-9;]*m")
_MOST_HOLES = 0.4
_NOT_READABLE = (ValueError, TypeError, LookupError, ArithmeticError, AttributeError)
"""What Gymnasium raises for a JSON value that is not of a space's kind."""


class GymnasiumWorld(SeededWorld):
    """A task is a seed: it settles how an episode begins, and the seed of the episode what chance
    does from there.

    An action is the last word or number that names one, in the last fenced block where there is
    one; JSON where actions are no choice of names; and all of the text where they are text. One
    that means nothing costs a step.
    """

    def __init__(
        self,
        *,
        id: str = "FrozenLake-v1",
        actions: Sequence[str] | None = None,
        map_size: int | None = None,
        hole_share: float = 0.2,
        num_tasks: int | None = None,
        num_validation_tasks: int | None = None,
        **make_options: Any,
    ) -> None:
        """`actions` names those of a discrete space, in order. With `map_size` each task of
        FrozenLake is a map of its own, on which the goal can be reached; `hole_share` of its cells
        are holes. All else goes to `gymnasium.make`, for example `max_episode_steps`."""
        del num_tasks, num_validation_tasks  # of `task_ids`
        import gymnasium

        self._spec = gymnasium.spec(id)
        self._known = _KNOWN.get(self._spec.name.removesuffix("8x8"), _Wording())
        if map_size is not None:
            _check_map(self._spec.name, size=map_size, hole_share=hole_share)
        self._map_size = map_size
        self._hole_share = hole_share
        self._make_options = {"disable_env_checker": True, **make_options}
        self._names = tuple(actions or self._known.actions)
        self._env = self._make()
        self._check_names()
        self._num_steps = 0

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        from gymnasium.utils.seeding import np_random

        task = task_seed(options, seed=seed)
        if self._map_size is not None:
            self.close()
            self._env = self._make(desc=self._random_map(task))
        observation, info = self._env.reset(seed=task)
        if seed is not None:
            self._env.unwrapped.np_random, _ = np_random(seed)
        self._num_steps = 0
        rules = f"{self._known.rules}\n" if self._known.rules else ""
        return f"{rules}{self._allowed()}\n\n{self._show(observation)}", _plain_dict(info)

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        self._num_steps += 1
        is_last = self._is_limit_reached()
        meant = self._read(action)
        if meant is None:
            said = f"No action was found in that. {self._allowed()}"
            return said, 0.0, False, is_last, {"is_action": False}
        observation, reward, terminated, truncated, info = self._env.step(meant)
        shown = {**_plain_dict(info), "is_action": True}
        # Gymnasium says both where the last step reaches the goal.
        truncated = not terminated and (bool(truncated) or is_last)
        return self._show(observation), float(reward), bool(terminated), truncated, shown

    def close(self) -> None:
        self._env.close()

    def _make(self, **more: Any) -> Any:
        import gymnasium

        options = {**self._make_options, **more}
        env = gymnasium.make(self._spec, **options)
        if "ansi" not in env.metadata.get("render_modes", ()) or env.render_mode is not None:
            return env
        env.close()
        return gymnasium.make(self._spec, render_mode="ansi", **options)

    def _random_map(self, task: int) -> list[str]:
        from gymnasium.envs.toy_text.frozen_lake import generate_random_map

        assert self._map_size is not None
        return generate_random_map(size=self._map_size, p=1 - self._hole_share, seed=task)

    def _check_names(self) -> None:
        count = getattr(self._env.action_space, "n", None)
        if self._names and count != len(self._names):
            raise ValueError(
                f"{self._spec.id}: {len(self._names)} names of actions, {', '.join(self._names)}; "
                f"its action space is {self._env.action_space}, which has {count or 'no choices'}"
            )

    def _is_limit_reached(self) -> bool:
        """By our count: Gymnasium's own has no steps that meant nothing."""
        limit = self._env.spec.max_episode_steps
        return limit is not None and self._num_steps >= limit

    def _allowed(self) -> str:
        from gymnasium import spaces

        space = self._env.action_space
        if self._names:
            return f"Actions: {', '.join(self._names)}."
        if isinstance(space, spaces.Discrete):
            return f"Actions: the numbers {space.start} to {space.start + space.n - 1}."
        if isinstance(space, spaces.Text):
            return f"An action is a text of {space.min_length} to {space.max_length} characters."
        return f"An action is JSON, one of {space}, such as {json.dumps(_json_sample(space))}."

    def _read(self, text: str) -> Any:
        """The action that the text means, of the action space; None without any."""
        from gymnasium import spaces

        space = self._env.action_space
        if isinstance(space, spaces.Text):
            return text if space.contains(text) else None
        blocks = _BLOCK.findall(text)
        said = blocks[-1] if blocks else text
        if isinstance(space, spaces.Discrete):
            return self._read_choice(said, space)
        return _read_json(said, space)

    def _read_choice(self, said: str, space: Any) -> int | None:
        named = _last_name(said, self._names)
        if named is not None:
            return int(space.start) + named
        numbers = [int(found) for found in _NUMBER.findall(said)]
        return next((number for number in reversed(numbers) if space.contains(number)), None)

    def _show(self, observation: Any) -> str:
        if self._known.show is not None:
            return self._known.show(self._env.unwrapped)
        if isinstance(observation, str):
            return observation
        if self._env.render_mode == "ansi":
            return _without_colours(self._env.render(), highlight=r"[\1]")
        return json.dumps(_plain(observation))


def _check_map(name: str, *, size: int, hole_share: float) -> None:
    if name != "FrozenLake":
        raise ValueError(f"map_size is for FrozenLake, the environment is {name}")
    if not (2 <= size <= 16 and 0 <= hole_share <= _MOST_HOLES):
        raise ValueError(
            f"a map of size {size} with a share of {hole_share} holes; sizes are 2 to 16, and "
            f"shares 0 to {_MOST_HOLES}, beyond which few random maps can be crossed"
        )


def _show_frozen_lake(env: Any) -> str:
    plain = str.maketrans("SFH", "__O")
    cells = [list(row.tobytes().decode().translate(plain)) for row in env.desc]
    row, column = divmod(int(env.s), env.ncol)
    cells[row][column] = "P"
    return "\n".join(" ".join(row) for row in cells)


def _show_taxi(env: Any) -> str:
    row, column, passenger, destination = env.decode(env.s)
    where = "in the taxi" if passenger == 4 else f"waiting at {'RGYB'[passenger]}"
    return (
        f"{_without_colours(env.render(), highlight='T')}\n"
        f"The taxi is in row {row}, column {column}. The passenger is {where} and wants to go to "
        f"{'RGYB'[destination]}."
    )


@dataclass(frozen=True, slots=True)
class _Wording:
    """What Gymnasium does not say of an environment in words."""

    actions: tuple[str, ...] = ()
    rules: str = ""
    show: Callable[[Any], str] | None = None


_KNOWN: Mapping[str, _Wording] = {
    "FrozenLake": _Wording(
        actions=("left", "down", "right", "up"),
        rules="You are P on a frozen lake. Walk to the goal G over ice _ and not into a hole O.",
        show=_show_frozen_lake,
    ),
    "Taxi": _Wording(
        actions=("south", "north", "east", "west", "pickup", "dropoff"),
        rules="Drive the taxi T to the passenger, pick them up, and drop them off where they want "
        "to go. The taxi passes : and not |.",
        show=_show_taxi,
    ),
    "CliffWalking": _Wording(actions=("up", "right", "down", "left")),
    "CliffWalkingSlippery": _Wording(actions=("up", "right", "down", "left")),
    "Blackjack": _Wording(actions=("stick", "hit")),
}


def _last_name(text: str, names: Sequence[str]) -> int | None:
    """The number of the name that stands last; of names in one another, the longest counts."""
    if not names:
        return None
    lower = [name.lower() for name in names]
    longest_first = sorted(lower, key=len, reverse=True)
    pattern = "|".join(rf"(?<!\w){re.escape(name)}(?!\w)" for name in longest_first)
    found = re.findall(pattern, text.lower())
    return lower.index(found[-1]) if found else None


def _read_json(text: str, space: Any) -> Any:
    try:
        value = json.loads(_bracketed(text), parse_constant=_refuse_constant)
        (action,) = space.from_jsonable([value])
        return action if space.contains(action) else None
    except (*_NOT_READABLE, RecursionError):
        return None


def _bracketed(text: str) -> str:
    """From the first bracket to the last; all of it without brackets."""
    opens = [place for place in (text.find("["), text.find("{")) if place >= 0]
    closes = max(text.rfind("]"), text.rfind("}"))
    return text[min(opens) : closes + 1] if opens and closes >= 0 else text


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


def _json_sample(space: Any) -> Any:
    """Always the same one."""
    fresh = copy.deepcopy(space)
    fresh.seed(0)
    return _plain(fresh.to_jsonable([fresh.sample()])[0])


def _without_colours(text: str, *, highlight: str) -> str:
    return _ESCAPE.sub("", _HIGHLIGHTED.sub(highlight, text)).strip("\n")


_NO_JSON = object()


def _plain_dict(info: Mapping[str, Any]) -> dict[str, Any]:
    plain = ((str(key), _plain(value)) for key, value in info.items())
    return {key: value for key, value in plain if value is not _NO_JSON}


def _plain(value: Any) -> Any:
    """As JSON holds it, arrays as lists; `_NO_JSON` for what it cannot hold."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if callable(getattr(value, "tolist", None)):
        return _plain(value.tolist())
    if isinstance(value, Mapping):
        return _plain_dict(value)
    if isinstance(value, list | tuple):
        items = [_plain(item) for item in value]
        return _NO_JSON if _NO_JSON in items else items
    return _NO_JSON
