"""What becomes of drafts that hold personal data or secrets.

What is refused is refused early, before a model is asked. What is masked is masked last: its
evidence could not be found in the chunk any more, nor its answer be compared with what the chunk
says. Reasons name the kind and the field, never the value.
"""

import dataclasses
import re
from collections.abc import Sequence
from typing import Literal

from astuner.task_generation.draft import DraftCandidate, GateRejection
from astuner.task_generation.gates.private_patterns import PrivateSpan
from astuner.task_generation.gates.private_spans import PrivateSpanFinder

MASKED_NOTE = "masked"
"""Note with the kinds that were masked."""
MAX_CHARACTERS = 10_000
"""Of a text that is looked through: detectors take up to a square of its length, here 0.3 s."""
FIELDS = ("question", "answer", "evidence")


class PersonalDataGate:
    """Refuses or masks personal data and secrets."""

    name = "personal_data"

    def __init__(self, finder: PrivateSpanFinder, *, treatment: Literal["refuse", "mask"]) -> None:
        """`keep` has no gate."""
        self._finder = finder
        self._treatment = treatment

    async def check(self, candidate: DraftCandidate) -> DraftCandidate | GateRejection:
        """The candidate as it was or with masks; a rejection also where masks take the answer."""
        draft = candidate.draft
        for field in FIELDS:
            if len(getattr(draft, field)) > MAX_CHARACTERS:
                reason = f"its {field} has more than {MAX_CHARACTERS:,} characters"
                return GateRejection(gate=self.name, reason=reason)
        found = {field: self._finder.find(getattr(draft, field)) for field in FIELDS}
        if not any(found.values()):
            return candidate
        if self._treatment == "refuse":
            return GateRejection(gate=self.name, reason=_describe(found))
        masked = dataclasses.replace(
            draft, **{field: mask(getattr(draft, field), self._finder) for field in FIELDS}
        )
        if not _says_more_than_masks(masked.answer):
            reason = f"{_describe(found)}, and nothing is left of it"
            return GateRejection(gate=self.name, reason=reason)
        kinds = sorted({span.kind for spans in found.values() for span in spans})
        return dataclasses.replace(
            candidate, draft=masked, notes={**candidate.notes, MASKED_NOTE: kinds}
        )


def mask(text: str, finder: PrivateSpanFinder) -> str:
    """The text with kinds in place of what `finder` finds, such as `[e-mail address]`;
    of a text that is too long for that, its beginning."""
    if len(text) > MAX_CHARACTERS:
        text = f"{text[:MAX_CHARACTERS]} …"
    for span in reversed(finder.find(text)):
        text = f"{text[: span.begin]}[{span.kind}]{text[span.end :]}"
    return text


def _describe(found: dict[str, Sequence[PrivateSpan]]) -> str:
    parts = [
        f"its {field} holds {' and '.join(_with_article(kind) for kind in kinds)}"
        for field, spans in found.items()
        if (kinds := sorted({span.kind for span in spans}))
    ]
    return ", ".join(parts)


def _with_article(kind: str) -> str:
    return f"{'an' if kind[0] in 'aeiouI' else 'a'} {kind}"


def _says_more_than_masks(answer: str) -> bool:
    return any(map(str.isalnum, re.sub(r"\[[^\]]{1,40}\]", "", answer)))
