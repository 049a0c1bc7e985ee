"""YAML whose aliases and depth are bounded, so that a small file cannot fill the memory.

An alias is read as a copy of what its anchor marks: a few lines can stand for billions of values,
and an anchor around its own alias for endlessly many.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from astuner.errors import ConfigError

MOST_VALUES = 100_000
DEEPEST = 50


def compose_bounded(text: str, path: Path) -> yaml.Node | None:
    """The tree of a YAML file; None for an empty one.

    Raises ConfigError for one that is too deep, or too large once its aliases are copied, and the
    errors of yaml for what is no YAML.
    """
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except RecursionError as error:
        raise ConfigError(_too_deep(str(path))) from error
    if node is not None:
        _Measure(path).size(node, depth=1)
    return node


def check_named_files(entries: Iterable[Any], folders: Iterable[Path]) -> None:
    """Hold the files that a `defaults` list names, and those that they name, to the bounds.

    Raises ConfigError. Files that are not there or are no YAML are left to who reads them.
    """
    folders, seen, waiting = tuple(folders), set[Path](), list(entries)
    while waiting:
        for name in _file_names(waiting.pop()):
            for path in (folder / f"{name}.yaml" for folder in folders):
                if path not in seen and path.is_file():
                    seen.add(path)
                    waiting += _named_in(path)


def _named_in(path: Path) -> list[Any]:
    try:
        text = path.read_text(encoding="utf-8-sig")
        compose_bounded(text, path)
        content = yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError):
        return []
    named = content.get("defaults") if isinstance(content, dict) else None
    return named if isinstance(named, list) else []


def _file_names(entry: Any) -> Iterator[str]:
    """`name`, or `group: name`, without what hydra takes before and behind it."""
    pairs = entry.items() if isinstance(entry, dict) else [("", entry)]
    for group, name in pairs:
        if isinstance(name, str):
            whole = f"{group}/{name}" if group else name
            yield re.sub(r"^(optional |override )+", "", whole).partition("@")[0].strip("/ ")


class _Measure:
    """Counts the values of each node once, however many aliases lead to it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._sizes: dict[int, int] = {}
        self._heights: dict[int, int] = {}
        self._open: set[int] = set()

    def size(self, node: yaml.Node, *, depth: int) -> int:
        """The number of values below and with it. Raises ConfigError beyond the bounds."""
        place = f"{self._path}:{node.start_mark.line + 1}"
        if id(node) in self._open:
            raise ConfigError(
                f"{place}: what stands here holds an alias of itself, so it has no end; write "
                "out what the alias should stand for"
            )
        if depth + self._heights.get(id(node), 0) > DEEPEST:
            raise ConfigError(_too_deep(place))
        if id(node) not in self._sizes:
            self._open.add(id(node))
            children = list(_children(node))
            size = 1 + sum(self.size(child, depth=depth + 1) for child in children)
            self._open.remove(id(node))
            self._sizes[id(node)] = size
            self._heights[id(node)] = max((1 + self._heights[id(c)] for c in children), default=0)
        if self._sizes[id(node)] > MOST_VALUES:
            raise ConfigError(
                f"{place}: with every alias written out this holds {self._sizes[id(node)]:,} "
                f"values, at most {MOST_VALUES:,} are read; use fewer aliases of aliases"
            )
        return self._sizes[id(node)]


def _children(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield key
            yield value
    elif isinstance(node, yaml.SequenceNode):
        yield from node.value


def _too_deep(place: str) -> str:
    return (
        f"{place}: sections and lists stand in each other more than {DEEPEST} levels deep; write "
        "it flatter, or put it into a file of its own that your code reads"
    )
