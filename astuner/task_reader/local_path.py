"""Where a path of the configuration lies on this machine."""

from collections.abc import Sequence
from pathlib import Path


def find_path(path: str, search_dirs: Sequence[Path]) -> Path | None:
    """The first that exists, of `path` under each of `search_dirs`; None if none does.

    An absolute path, or one that begins with `~`, is taken as it is.
    """
    return next((place for place in places(path, search_dirs) if place.exists()), None)


def places(path: str, search_dirs: Sequence[Path]) -> list[Path]:
    """Every place where `find_path` looks, in order."""
    return [folder / Path(path).expanduser() for folder in search_dirs or (Path.cwd(),)]
