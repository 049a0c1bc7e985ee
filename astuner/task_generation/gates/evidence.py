"""Whether what a draft quotes stands in the text that it was made from.

White space does not count, wherever it stands: a PDF breaks lines, and a model joins them. Neither
does what is only another way to write or to print the same characters, since models type what they
read: Unicode's composed and decomposed letters, typographic quotes, dashes and the ellipsis,
ligatures, characters that nobody sees, and the backticks of Markdown. Letters, digits, marks and
their case must agree, and so must superscripts: 10² is not 102.
"""

import dataclasses
import re
import unicodedata
from dataclasses import dataclass

from astuner.task_generation.draft import DraftCandidate, GateRejection

SPAN_NOTE = "evidence_span"
"""Note with `[begin, end]`, in characters of the chunk's text."""

_MIN_WORDS = 2
_MIN_CHARACTERS = 8
"""Less names no thing together with what is said of it: "25 s" or "true" may stand anywhere."""
_EAST_ASIAN = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")
_WORD = re.compile(rf"{_EAST_ASIAN.pattern}|[^\W_]+?(?={_EAST_ASIAN.pattern}|[\W_]|$)")

_FOLDED = str.maketrans(
    {
        **dict.fromkeys("‘’‚‛′´", "'"),
        **dict.fromkeys("“”„‟″«»", '"'),
        **dict.fromkeys("‐‑‒–—―−", "-"),
        **dict.fromkeys("`\u00ad\u200b\u200c\u200d\u2060\ufeff", ""),
        "…": "...",
        "ﬀ": "ff",
        "ﬁ": "fi",
        "ﬂ": "fl",
        "ﬃ": "ffi",
        "ﬄ": "ffl",
        "ﬅ": "st",
        "ﬆ": "st",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BareText:
    """A text without what does not count."""

    text: str
    origins: tuple[int, ...]
    """Of each character, the place in the text as it was."""

    @classmethod
    def of(cls, text: str) -> "BareText":
        """Each character decomposed for itself, so that its place stays known."""
        kept = [(character, place) for place, one in enumerate(text) for character in _fold(one)]
        return cls(text="".join(c for c, _ in kept), origins=tuple(place for _, place in kept))


class EvidenceGate:
    """Refuses drafts whose evidence is missing, says nothing, or is not in their chunk."""

    name = "evidence"

    async def check(self, candidate: DraftCandidate) -> DraftCandidate | GateRejection:
        """The candidate with the place of its evidence; as it was, where there is no chunk."""
        chunk = candidate.turn.chunk
        if chunk is None:
            return candidate
        evidence = candidate.draft.evidence
        if not evidence.strip():
            return self._reject("it quotes no evidence")
        if count_words(evidence) < _MIN_WORDS or _weight(evidence) < _MIN_CHARACTERS:
            return self._reject("its evidence is too short to support anything")
        span = find_span(evidence, chunk.text)
        if span is None:
            return self._reject(_describe_absence(evidence, chunk.text))
        return dataclasses.replace(candidate, notes={**candidate.notes, SPAN_NOTE: list(span)})

    def _reject(self, reason: str) -> GateRejection:
        return GateRejection(gate=self.name, reason=reason)


def find_span(quoted: str, text: str) -> tuple[int, int] | None:
    """Begin and end of the first place in `text` that reads like `quoted`; None: there is none."""
    sought, folded = BareText.of(quoted).text, BareText.of(text)
    begin = folded.text.find(sought)
    if not sought or begin < 0:
        return None
    return folded.origins[begin], folded.origins[begin + len(sought) - 1] + 1


def count_words(text: str) -> int:
    """Runs of letters and digits; each character of Chinese and Japanese counts as one."""
    return len(_WORD.findall(text))


def _fold(character: str) -> str:
    if character.isspace():
        return ""
    return unicodedata.normalize("NFD", character).translate(_FOLDED)


def _weight(text: str) -> int:
    """Letters and digits; Chinese and Japanese say as much in one character as others in two."""
    return sum(map(str.isalnum, text)) + len(_EAST_ASIAN.findall(text))


def _describe_absence(evidence: str, text: str) -> str:
    """Without quoting, since nobody has looked for secrets in it yet."""
    sought, folded = BareText.of(evidence).text, BareText.of(text).text
    shared, beyond = 0, len(sought)  # the longest beginning that occurs, by halving
    while beyond - shared > 1:
        middle = (shared + beyond) // 2
        if sought[:middle] in folded:
            shared = middle
        else:
            beyond = middle
    return (
        f"its evidence does not occur in the text: that has its first {shared} of {len(sought)} "
        "characters"
    )
