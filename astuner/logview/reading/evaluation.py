"""What an evaluation, or a validation of a training run, found; read again where its files grew."""

import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from astuner.errors import AstunerError, UnreadableError
from astuner.evaluation.facts import EVALUATION_FILE, EvaluationFacts
from astuner.evaluation.outcomes import EvaluatedModel
from astuner.evaluation.read import read_evaluated
from astuner.logview.reading.lines import own_file

_MAX_FACTS_BYTES = 4 * 2**20
_PATIENCE = 10.0
"""Records that grow are read again after so many times as long as reading them took."""
_MOST_KEPT = 3

_Signature = tuple[tuple[str, int, int, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _KeptFacts:
    signature: _Signature
    facts: EvaluationFacts | None
    problem: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _KeptOutcomes:
    signature: _Signature
    model: EvaluatedModel
    good_until: float
    """By the clock that only goes on."""


class EvaluationReader:
    """Of the run directory `root`, which has no links in its own path."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lock = threading.Lock()
        self._facts = _KeptFacts(signature=(), facts=None, problem=None)
        self._outcomes: dict[str | None, _KeptOutcomes] = {}

    def facts(self) -> EvaluationFacts | None:
        """What was evaluated; None where the run is no evaluation, or where that is unreadable."""
        return self._read_facts().facts

    def problem(self) -> str | None:
        """Why the facts cannot be read, in words."""
        return self._read_facts().problem

    def evaluated(self, at: str | None = None) -> EvaluatedModel:
        """Every attempt at every task; with `at`, as "step_20", those of a validation.

        Raises UnreadableError and NotFoundError, in words.
        """
        with self._lock:
            signature = _signature(self._root, self._record_names(at))
            kept = self._outcomes.get(at)
            if kept and (kept.signature == signature or time.monotonic() < kept.good_until):
                return kept.model
            begun = time.monotonic()
            model = _read(self._root, at)
            ended = time.monotonic()
            self._outcomes.pop(at, None)
            self._outcomes[at] = _KeptOutcomes(
                signature=signature, model=model, good_until=ended + _PATIENCE * (ended - begun)
            )
            while len(self._outcomes) > _MOST_KEPT:
                del self._outcomes[next(iter(self._outcomes))]
            return model

    def _read_facts(self) -> _KeptFacts:
        signature = _signature(self._root, [EVALUATION_FILE])
        kept = self._facts
        if kept.signature != signature:
            kept = self._facts = _read_facts(self._root, signature)
        return kept

    def _record_names(self, at: str | None) -> Sequence[str]:
        """Raises UnreadableError for files that are not the run's own."""
        try:
            found = os.listdir(self._root / "episodes")
        except OSError:
            found = []
        names = [f"episodes/{name}" for name in sorted(found) if name.startswith("validation_")]
        if strange := [name for name in names if own_file(self._root, name) is None]:
            raise UnreadableError(f"{strange[0]} is no file of this run, so it is not read")
        return [*names, "config.yaml" if at else EVALUATION_FILE]


def _read(root: Path, at: str | None) -> EvaluatedModel:
    try:
        return read_evaluated(root, at)
    except (ValueError, RecursionError, OverflowError) as error:
        raise UnreadableError(f"the records of {root} cannot be read: {error}") from error


def _read_facts(root: Path, signature: _Signature) -> _KeptFacts:
    facts, problem = None, None
    if signature and own_file(root, EVALUATION_FILE) is not None:
        try:
            if signature[0][1] > _MAX_FACTS_BYTES:
                raise UnreadableError(f"{EVALUATION_FILE} has more than {_MAX_FACTS_BYTES:,} bytes")
            facts = EvaluationFacts.read(root)
        except (AstunerError, RecursionError) as error:
            problem = str(error)
    return _KeptFacts(signature=signature, facts=facts, problem=problem)


def _signature(root: Path, names: Sequence[str]) -> _Signature:
    """What tells whether any of these files changed; those that are not there are left out."""
    found = []
    for name in names:
        try:
            stat = os.stat(root / name)
        except OSError:
            continue
        found.append((name, stat.st_size, stat.st_mtime_ns, stat.st_ino))
    return tuple(found)
