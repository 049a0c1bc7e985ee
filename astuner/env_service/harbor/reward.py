"""The reward that a verifier wrote into /logs/verifier.

What stands there may be of the agent's making, since a verifier may run the agent's code: it is
read as a plain file of bounded size, and no link is followed.
"""

import json
import math
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

_MAX_BYTES = 64 * 1024
_KEY = "reward"


class NoReward(Exception):
    """There is none that can be read; the message says what was found."""


def read_reward(folder: Path) -> float:
    """The number of reward.json, else of reward.txt, as it is.

    Of several numbers in reward.json the one called `reward` counts, or the only one. Raises
    NoReward, also for one that is not finite.
    """
    try:
        folder_fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError as error:
        raise NoReward(f"/logs/verifier is no folder any more ({error.strerror})") from error
    try:
        for name, read in _FORMS.items():
            text = _read(name, folder_fd)
            if text is not None:
                return _finite(name, read(text))
    finally:
        os.close(folder_fd)
    raise NoReward(f"/logs/verifier has no {' or '.join(_FORMS)}")


def _of_json(text: str) -> float:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise NoReward(f"reward.json is not JSON: {text!r:.100}") from None
    if isinstance(found, Mapping):
        if _KEY not in found and len(found) != 1:
            raise NoReward(f"reward.json has no {_KEY!r} but {sorted(found)!r:.200}")
        found = found.get(_KEY, next(iter(found.values())))
    if not isinstance(found, int | float):
        raise NoReward(f"reward.json has {found!r:.100} where a number belongs")
    return _number(found, "reward.json")


def _of_text(text: str) -> float:
    return _number(text, "reward.txt")


_FORMS: Mapping[str, Callable[[str], float]] = {"reward.json": _of_json, "reward.txt": _of_text}


def _number(value: Any, name: str) -> float:
    try:
        return float(value)
    except (ValueError, OverflowError):
        raise NoReward(f"{name} has {value!r:.100} where a number belongs") from None


def _finite(name: str, value: float) -> float:
    if not math.isfinite(value):
        raise NoReward(f"{name} has {value}, which is no reward")
    return value


def _read(name: str, folder_fd: int) -> str | None:
    """None where there is no such file."""
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder_fd)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise NoReward(f"{name} is no plain file ({error.strerror})") from error
    with open(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise NoReward(f"{name} is no plain file")
        content = file.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise NoReward(f"{name} has more than {_MAX_BYTES} bytes")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise NoReward(f"{name} is not text: {content!r:.100}") from None
