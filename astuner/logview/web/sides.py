"""One side of a comparison: a run with one of its steps, as an address names it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from astuner.errors import NotFoundError
from astuner.logview.view.words import model_name

if TYPE_CHECKING:
    from astuner.evaluation.outcomes import EvaluatedModel
    from astuner.logview.reading.groups import GroupRow
    from astuner.logview.reading.run_reader import RunReader
    from astuner.logview.reading.shelf import Shelf

_NUM_NAMED = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedSide:
    """A step of a run whose tasks are compared."""

    run: "RunReader"
    step: int
    is_validation: bool

    @property
    def address(self) -> str:
        """As it stands in the address of a comparison."""
        return f"{self.run.name}:{self.step}"

    @property
    def says(self) -> str:
        if (facts := self.run.facts) is not None:
            return f"{model_name(facts.model)} on {facts.split}"
        return f"{'validation after' if self.is_validation else 'training of'} step {self.step}"

    def evaluated(self) -> "EvaluatedModel | None":
        """With all that statistics need; None of what was trained on.

        Raises UnreadableError and NotFoundError, in words.
        """
        if not self.is_validation:
            return None
        at = None if self.run.facts is not None else f"step_{self.step}"
        return self.run.evaluation.evaluated(at)

    def groups(self) -> "list[GroupRow]":
        self.run.index.refresh(step=self.step, is_validation=self.is_validation)
        return self.run.index.groups(self.step, self.is_validation)


def read_side(shelf: "Shelf", text: str) -> ComparedSide:
    """Of `RUN` the newest validation, of `RUN:STEP` the one of that step.

    Where the run has none there, the episodes that were trained on. Raises NotFoundError.
    """
    names = {run.name for run in shelf.runs()}
    name, _, step = text.rpartition(":")
    if text in names or not _is_step(step):
        name, step = text, ""
    run = shelf.run(name)
    places = steps_of(run)
    wanted = [place for place in places if not step or place.step == int(step)]
    if not wanted:
        steps = sorted({place.step for place in places})
        found = ", ".join(map(str, steps[:_NUM_NAMED])) + (", …" if steps[_NUM_NAMED:] else "")
        raise NotFoundError(
            f"run {run.name} has no episodes{f' of step {step}' if step else ''}; "
            f"{f'it has those of steps {found}' if found else 'it has written none so far'}"
        )
    return max(wanted, key=lambda place: (place.is_validation, place.step))


def _is_step(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 19


def steps_of(run: "RunReader") -> list[ComparedSide]:
    """All that a run has episodes of; the validations first, each in the order of steps."""
    run.index.refresh(seconds=0.0)
    places = [
        ComparedSide(run=run, step=entry.step, is_validation=entry.is_validation)
        for entry in run.index.steps()
    ]
    return sorted(places, key=lambda place: (not place.is_validation, place.step))
