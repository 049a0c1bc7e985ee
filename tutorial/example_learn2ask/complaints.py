"""What the toy patients of this tutorial may have, and what a doctor should ask about it.

Made up for the tutorial: everyday words without medical knowledge, and no advice for anybody.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Topic:
    """Something that a doctor may ask."""

    questions: tuple[str, ...]
    words: tuple[str, ...]
    """One of them stands in a question about it, in lower case."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Complaint:
    """What a patient comes with."""

    openings: tuple[str, ...]
    answers: Mapping[str, tuple[str, ...]]
    """By the topics that should be asked about: what patients may have to say."""


TOPICS: Mapping[str, Topic] = {
    "since when": Topic(
        questions=("Since when do you have it?", "How long has it been so?"),
        words=("since when", "how long", "when did"),
    ),
    "where": Topic(
        questions=("Where exactly is it?", "Where do you feel it?"),
        words=("where", "which side"),
    ),
    "how strong": Topic(
        questions=("How strong is it, from 1 to 10?", "How bad is it, from 1 to 10?"),
        words=("how strong", "how bad", "from 1 to 10"),
    ),
    "what makes it worse": Topic(
        questions=("What makes it worse?", "When is it worse?"),
        words=("worse", "worst"),
    ),
    "what makes it better": Topic(
        questions=("What makes it better?", "Does anything make it better?"),
        words=("better", "relief", "eases"),
    ),
    "fever": Topic(
        questions=("Do you have a fever?", "Did you have a fever?"),
        words=("fever", "temperature"),
    ),
    "medicine": Topic(
        questions=("Do you take any medicine?", "Which medicine do you take?"),
        words=("medicine", "tablet", "pill"),
    ),
    "meals": Topic(
        questions=("What did you eat before?", "What do you eat and drink?"),
        words=("eat", "drink", "meal"),
    ),
}

_DAYS = ("Since yesterday.", "For three days.", "For about a week.", "For a month.")
_NUMBERS = ("About a three.", "A five.", "It is a seven.", "An eight at night.")
_MEDICINE = ("No, none.", "Something against hay fever.", "A tablet for my blood pressure.")
_FEVER = ("No.", "Yes, a little.", "I did not look.")

COMPLAINTS: Mapping[str, Complaint] = {
    "head": Complaint(
        openings=("My head hurts.", "I have a headache."),
        answers={
            "since when": _DAYS,
            "where": ("Behind the eyes.", "On the left.", "All over."),
            "how strong": _NUMBERS,
        },
    ),
    "cough": Complaint(
        openings=("I have a cough.", "I cannot stop coughing."),
        answers={
            "since when": _DAYS,
            "fever": _FEVER,
            "what makes it worse": ("Lying down.", "Cold air.", "Talking a lot."),
        },
    ),
    "stomach": Complaint(
        openings=("My stomach aches.", "I have a stomach ache."),
        answers={
            "where": ("Below the ribs.", "Around the navel.", "Low on the right."),
            "meals": ("Only soup.", "A large pizza.", "Coffee, and little else."),
            "fever": _FEVER,
        },
    ),
    "knee": Complaint(
        openings=("My knee hurts.", "My knee is swollen."),
        answers={
            "since when": _DAYS,
            "what makes it worse": ("Stairs.", "Running.", "Sitting for long."),
            "what makes it better": ("Ice.", "Rest.", "Nothing so far."),
        },
    ),
    "sleep": Complaint(
        openings=("I sleep badly.", "I lie awake at night."),
        answers={
            "since when": _DAYS,
            "meals": ("Tea in the evening.", "A late dinner.", "Coffee at six."),
            "medicine": _MEDICINE,
        },
    ),
    "back": Complaint(
        openings=("My back is stiff.", "My back hurts."),
        answers={
            "where": ("Low down.", "Between the shoulders.", "On the right."),
            "how strong": _NUMBERS,
            "what makes it better": ("A warm bath.", "Walking.", "Nothing so far."),
        },
    ),
    "skin": Complaint(
        openings=("My skin itches.", "I have a rash."),
        answers={
            "where": ("On both arms.", "On my neck.", "On my belly."),
            "medicine": _MEDICINE,
            "what makes it worse": ("Heat.", "Wool.", "A new soap."),
        },
    ),
}


def topic_of(question: str) -> str | None:
    """What a question asks about, by its words; the first where there are several."""
    said = question.lower()
    for name, topic in TOPICS.items():
        if any(word in said for word in topic.words):
            return name
    return None
