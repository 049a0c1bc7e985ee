"""What answers have to look like to be checked, as a sentence for a prompt."""

from collections.abc import Mapping
from typing import Literal

VERSION = 1
"""As that of a prompt, which each of these becomes a part of."""

AnswerKind = Literal["number", "short_text", "free_text"]

ANSWER_FORMS: Mapping[AnswerKind, str] = {
    "number": "The answer is one number in digits, with its unit where it has one, or yes or no "
    "where that is the kind; and nothing else.",
    "short_text": "The answer is a few words, such as a name, a number with its unit, or yes or "
    "no; it is no sentence and explains nothing.",
    "free_text": "The answer is one to three sentences that say what was asked and nothing else.",
}
"""By what the judge compares: numbers, texts, or by a model."""
