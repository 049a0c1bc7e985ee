"""Whether a question can be understood by somebody who sees nothing else."""

import re

from astuner.task_generation.draft import DraftCandidate, GateRejection
from astuner.task_generation.gates.pointing_phrases import PHRASES

_SHOWN = re.compile(r"\n|[:：]\s{0,3}\S.{19}")
"""What the question shows itself: a further line, or twenty characters behind a colon."""


class SelfContainedGate:
    """Refuses questions that point to a text the agent does not see ("in the text above").

    All languages are looked for in every question: which one it is written in is not known, and a
    phrase of one means nothing in another.
    """

    name = "self_contained"

    async def check(self, candidate: DraftCandidate) -> DraftCandidate | GateRejection:
        """The candidate as it was, or the words that point."""
        if (phrase := find_pointing_phrase(candidate.draft.question)) is None:
            return candidate
        return GateRejection(
            gate=self.name,
            reason=f"the question points to a text that the agent does not see: {phrase!r}",
        )


def find_pointing_phrase(question: str) -> str | None:
    """The first words that point outside of the question; None where there are none."""
    for phrases in PHRASES.values():
        if found := phrases.always.search(question):
            return found.group().strip()
        found = phrases.unless_shown.search(question)
        if found and not _SHOWN.search(question, found.end()):
            return found.group().strip()
    return None
