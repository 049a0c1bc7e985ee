r"""What a text gives as its answer, wherever it stands: in a box, behind `####` or "the answer is",
alone on the last line, or as the last number.
"""

import re

from astuner.task_judge.math.last_number import last_number
from astuner.task_judge.math.number import parse_number
from astuner.task_judge.math.plain import plain_math
from astuner.task_judge.math.text import after_hashes, last_box
from astuner.task_judge.math.words import is_prose

_SMALL_WORDS = re.compile(
    r"\b(?:so|is|it|to|of|at|we|he|as|if|be|by|my|no|on|up|us|me|go|do|an|i'm|and)\b", re.IGNORECASE
)
_MARKERS = re.compile(r"\s*(?:>\s+|[-=]{1,2}>\s*|#{1,6}\s+|[•‣◦·]\s*|\d{1,2}[.)]\s+(?=\S))+")
_STATED = re.compile(
    r".*(?:\b(?:answer|option|choice)s?(?:\s+(?:is|are|=)|\s*:)+"
    r"|答案(?:是|为)?\uff1a?:?|\brespuesta(?: es|:)+"
    r"|\b\u043e\u0442\u0432\u0435\u0442:|\bréponse(?: est|\s?:)+|\bantwort(?: ist|:)+)"
    r"\s*(?P<answer>\S.*)",
    re.IGNORECASE | re.DOTALL,
)
_UNCLOSED_BOX = re.compile(r"\\(?:boxed|fbox)\s?\{")
_BOUND = re.compile(r"(?:more|greater|less|fewer) than -?[\d.,]+", re.IGNORECASE)
"""Is a relation, not its number."""
_MAX_STATED_WORDS = 6
_EXCLAIMED = re.compile(r"!+[*_\s]*$")
"""Behind a sentence; `$7!$` is a factorial."""
_OPENING_WORD = re.compile(r"(?P<word>yes|no|true|false|[A-J](?=[.):]))\b[,.;:!)]\s", re.IGNORECASE)
_OPPOSITES = {"yes": "no", "no": "yes", "true": "false", "false": "true"}


def find_answer(text: str, *, accept_last_number: bool) -> str | None:
    r"""The expression that a text gives as its answer; None if it gives none.

    The last `\boxed{}` counts, else what follows the last `####`, else on the last line what
    follows "the answer is" or the whole of it where it is nothing but an expression, else, if
    accepted, the last number.
    """
    box = last_box(text)
    if box is not None:
        return box
    if _UNCLOSED_BOX.search(text):
        return None  # cut off: `\boxed{12` may have been 120
    marked = after_hashes(text)
    if marked:
        first_line = marked.splitlines()[0]
        if _is_expression(first_line):
            return first_line
        text = marked  # `####` was a heading
    last_line = _without_markers(text)
    stated = _STATED.fullmatch(last_line)
    said = _EXCLAIMED.sub("", stated["answer"]) if stated else ""
    for candidate in (last_line, said):
        if _is_expression(candidate) or _BOUND.fullmatch(candidate):
            return candidate
    if _is_few_words(said):
        return said
    return last_number(text) if accept_last_number else None


def opening_word(text: str) -> str | None:
    """`Yes` of `Yes, since 5 > 3`, and `A` of `A. Paris`: of the last line, where there is no box.

    None where the line also has the opposite word.
    """
    line = plain_math(last_line_of(text))
    match = _OPENING_WORD.match(line)
    if match is None or last_box(text) is not None:
        return None
    opposite = _OPPOSITES.get(match["word"].lower())
    has_both = opposite and re.search(rf"\b{opposite}\b", line, re.IGNORECASE)
    return None if has_both else match["word"]


def last_line_of(text: str) -> str:
    """Without the fence of a block of code."""
    return text.strip().rstrip("`~ \n").rpartition("\n")[2].strip()


def _without_markers(text: str) -> str:
    """The last line without what makes it a quotation or the item of a list."""
    line = last_line_of(text)
    above = text.strip()[: -len(line) or None].strip().rpartition("\n")[2]
    if line.startswith("- ") and above.startswith("- "):
        line = line.removeprefix("- ")
    return _MARKERS.sub("", line, count=1)


def _is_expression(text: str) -> bool:
    plain = plain_math(text)
    if not plain:
        return False
    has_words = is_prose(plain) or _SMALL_WORDS.search(plain) is not None
    return not has_words or parse_number(plain) is not None


def _is_few_words(text: str) -> bool:
    words = plain_math(text).split()
    return bool(words) and len(words) <= _MAX_STATED_WORDS and not re.search(r"\d", text)
