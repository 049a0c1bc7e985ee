"""Finds, among runs of tokens or of characters, the longest that another run begins with.

A radix tree: what runs have in common stands once, so a look-up reads its run once, however many
runs there are. Owns no meaning of the runs.
"""

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from astuner.trajectory.shared_beginning import shared_length

Run = TypeVar("Run", tuple[int, ...], str)


@dataclass(slots=True)
class _RunNode(Generic[Run]):
    run: Run
    """What stands between the node above and this one."""
    name: int | None
    """Of the run that ends here; None where none does."""
    children: dict[Hashable, "_RunNode[Run]"] = field(default_factory=dict)
    """By the first element of their runs."""


class PrefixTree(Generic[Run]):
    """Runs by name. Of equal runs the first keeps its name.

    With (1, 2) named 0, (1, 2, 3, 4) named 1 and (1, 2, 5) named 2, the longest run that
    (1, 2, 3, 4, 6) begins with is 1, and of (1, 2, 3, 9) it is 0. The tree of the three is

        (1, 2) 0 ─┬─ (3, 4) 1
                  └─ (5) 2
    """

    def __init__(self, empty: Run) -> None:
        """`empty` is the run without elements."""
        self._root: _RunNode[Run] = _RunNode(empty, None)
        self._ends: dict[int, tuple[_RunNode[Run], int]] = {}
        """Name of a run -> where it ends, and its length."""

    def longest(self, run: Run, *, known: int | None = None) -> int | None:
        """The name of the longest run, not an empty one, that `run` begins with or is.

        `known` names a run that it is known to begin with; what comes before is not read again.
        """
        node, place = self._start(known)
        found = node.name
        while place < len(run):
            child = node.children.get(run[place])
            if child is None:
                break
            end = place + len(child.run)
            if run[place:end] != child.run:
                break
            node, place = child, end
            found = found if node.name is None else node.name
        return found

    def add(self, run: Run, name: int, *, known: int | None = None) -> None:
        """Remember a run. `known` names one that it begins with, which is not read again."""
        node, place = self._start(known)
        while place < len(run):
            child = node.children.get(run[place])
            if child is None:
                child = node.children[run[place]] = _RunNode(run[place:], None)
            shared = shared_length(child.run, run[place : place + len(child.run)])
            if shared < len(child.run):
                child = self._split(node, child, shared)
            node, place = child, place + shared
        if node.name is None and node is not self._root:
            node.name = name
        self._ends[name] = (node, place)

    def _start(self, known: int | None) -> tuple[_RunNode[Run], int]:
        return (self._root, 0) if known is None else self._ends[known]

    def _split(self, above: _RunNode[Run], node: _RunNode[Run], place: int) -> _RunNode[Run]:
        """Put a node between two others, behind the first `place` elements of the lower one.

        The lower one stays the end of the runs that end there.
        """
        upper = _RunNode(node.run[:place], None)
        above.children[node.run[0]] = upper
        node.run = node.run[place:]
        upper.children[node.run[0]] = node
        return upper
