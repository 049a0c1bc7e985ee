"""What every gate does."""

from typing import Protocol

from astuner.task_generation.draft import DraftCandidate, GateRejection


class DraftGate(Protocol):
    """Looks at one draft alone. Gates are asked in order, cheap ones first, until one rejects."""

    name: str
    """As in the table of yields; lower case with underscores."""

    async def check(self, candidate: DraftCandidate) -> DraftCandidate | GateRejection:
        """The candidate, perhaps with notes or masked text; or why not.

        Raises the errors of `LanguageModel.ask` where it asks a model. A draft whose gate got no
        answer is not rejected: it has failed, and is asked about again later.
        """
        ...


class DuplicateFilter(Protocol):
    """Compares drafts with each other, in the order of the plan."""

    name: str

    async def prepare(self, candidate: DraftCandidate) -> None:
        """What takes time or money, such as an embedding; may be called in any order, and twice."""
        ...

    def find(self, candidate: DraftCandidate) -> GateRejection | None:
        """What it repeats of all that was added: of tasks, of seeds, of other sets."""
        ...

    def add(self, candidate: DraftCandidate) -> None:
        """It is kept; those behind it must differ."""
        ...
