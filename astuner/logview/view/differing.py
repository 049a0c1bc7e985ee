"""Where texts that begin alike part: the first differing message, and in it the first word.

Compares messages as their texts and texts word by word. Does not know episodes or pages.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import groupby
from operator import itemgetter

from astuner.trajectory.shared_beginning import shared_length

_WORD = re.compile(r"\s+|[^\W\u0e00-\u0eff\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff]+|.", re.DOTALL)
"""White space, a word, or one sign; a character of scripts that write no spaces is a word too."""
MAX_COMPARED_WORDS = 2000
"""Finding what is new takes the product of both lengths in the worst case."""
_WORD_REACH = 1000
"""How far from where two texts part their words are looked at, in characters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartedText:
    """A text beside another: what both begin with, the first word that differs, and the rest."""

    shared: str
    differing: str
    """Empty where the text ends here and the other goes on, or where both are equal."""
    rest: str
    ends_early: bool
    """Whether the other text goes on where this one ends."""

    @property
    def is_equal(self) -> bool:
        """Whether both texts are the same throughout."""
        return not self.differing and not self.ends_early


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """A run of words of a text, all of which stood in an earlier text too, or none."""

    text: str
    is_new: bool


def num_shared(conversations: Sequence[Sequence[object]]) -> int:
    """With how many equal messages all of them begin; 0 for no conversations.

    num_shared([["hi", "a", "x"], ["hi", "a"], ["hi", "b"]]) is 1
    """
    shared = 0
    for messages in zip(*conversations, strict=False):
        if any(message != messages[0] for message in messages):
            break
        shared += 1
    return shared


def first_difference(one: Sequence[object], other: Sequence[object]) -> int | None:
    """The index of the first message that is not the same in both; None where all are.

    Where one of them ends first, this is its length: the index of what the other adds.
    """
    shared = num_shared([one, other])
    return None if shared == len(one) == len(other) else shared


def parted(text: str, other: str) -> PartedText:
    """The text, with the first word in which it differs from the other.

    parted("9 + 1 = 10", "9 + 1 is 10") shares "9 + 1 ", differs in "=" and goes on with " 10".
    """
    if text == other:
        return PartedText(shared=text, differing="", rest="", ends_early=False)
    common = shared_length(text, other)
    start = max(text.rfind(" ", 0, common) + 1, common - _WORD_REACH)
    own = words_of(text[start : common + _WORD_REACH])
    index = num_shared([own, words_of(other[start : common + _WORD_REACH])])
    differing = own[index] if index < len(own) else ""
    if differing.isspace() and index + 1 < len(own):
        differing += own[index + 1]
    length = start + len("".join(own[:index]))
    return PartedText(
        shared=text[:length],
        differing=differing,
        rest=text[length + len(differing) :],
        ends_early=not differing,
    )


def passages(text: str, before: str) -> list[Passage]:
    """The text in runs of words, with those marked that an earlier text did not have there.

    White space is new between new words only. All words behind the 2,000th are compared as one.
    passages("it is 10", "it is 9") are "it is " and, new, "10".
    """
    own, earlier = _bounded(words_of(text)), _bounded(words_of(before))
    # White space is in every place of both: the matcher would look at each pair of them.
    places = [index for index, word in enumerate(own) if not word.isspace()]
    said_before = [word for word in earlier if not word.isspace()]
    matcher = SequenceMatcher(a=said_before, b=[own[at] for at in places], autojunk=False)
    is_new = [True] * len(own)
    for block in matcher.get_matching_blocks():
        for at in places[block.b : block.b + block.size]:
            is_new[at] = False
    for index, word in enumerate(own):
        if word.isspace():
            between = is_new[index - 1 : index] + is_new[index + 1 : index + 2]
            is_new[index] = len(between) == 2 and all(between)
    runs = groupby(zip(own, is_new, strict=True), key=itemgetter(1))
    return [Passage(text="".join(word for word, _ in run), is_new=new) for new, run in runs]


def words_of(text: str) -> list[str]:
    """Words, white space and signs in order; joined they are the text."""
    return _WORD.findall(text)


def _bounded(words: list[str]) -> list[str]:
    kept, rest = words[:MAX_COMPARED_WORDS], words[MAX_COMPARED_WORDS:]
    return [*kept, "".join(rest)] if rest else kept
