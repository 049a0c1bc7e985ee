"""Gates that look at the text of a draft alone: evidence, pointing questions, personal data."""

import asyncio
import json

import pytest

from astuner.task_generation.draft import DraftCandidate, GateRejection
from astuner.task_generation.gates.evidence import EvidenceGate, find_span
from astuner.task_generation.gates.pointing_phrases import PHRASES
from astuner.task_generation.gates.self_contained import SelfContainedGate, find_pointing_phrase
from tests.task_generation.drafts import make_candidate
from tests.task_generation.planted import PLANTED

TEXT = "The client waits 25 seconds.\nIt then says “gave up” – once, at 10² ms."


def check(gate, candidate: DraftCandidate) -> DraftCandidate | GateRejection:
    return asyncio.run(gate.check(candidate))


def evidence_of(evidence: str, text: str | None = TEXT) -> DraftCandidate | GateRejection:
    return check(EvidenceGate(), make_candidate("Q?", "25", evidence=evidence, text=text))


@pytest.mark.parametrize(
    ("quoted", "marked"),
    [
        ("waits 25 seconds.", "waits 25 seconds."),
        ("waits   25\n\nseconds. It then", "waits 25 seconds.\nIt then"),
        ('then says "gave up" - once', "then says “gave up” – once"),
        ("10² ms. ", None),
        ("- once, at 10² ms.", "– once, at 10² ms."),
    ],
)
def test_evidence_is_marked_where_it_stands_in_the_text(quoted: str, marked: str | None) -> None:
    outcome = evidence_of(quoted)
    if marked is None:
        assert isinstance(outcome, GateRejection) and "too short" in outcome.reason
        return
    assert isinstance(outcome, DraftCandidate)
    begin, end = outcome.notes["evidence_span"]
    assert TEXT[begin:end] == marked
    assert json.loads(json.dumps(outcome.notes)) == outcome.notes


@pytest.mark.parametrize(
    "quoted",
    ["waits 26 seconds.", "the client Waits 25", "once, at 102 ms.", "seconds. … once, at"],
)
def test_evidence_that_reads_otherwise_is_refused(quoted: str) -> None:
    outcome = evidence_of(quoted)
    assert isinstance(outcome, GateRejection) and "does not occur" in outcome.reason


def test_a_refusal_says_how_much_of_the_evidence_occurs_and_does_not_quote_it() -> None:
    outcome = evidence_of("The client waits 99 hours.")
    assert isinstance(outcome, GateRejection)
    assert outcome.reason == (
        "its evidence does not occur in the text: that has its first 14 of 22 characters"
    )


@pytest.mark.parametrize("quoted", ["", "  \n", "25 s", "seconds", "true", "25"])
def test_evidence_that_supports_nothing_is_refused(quoted: str) -> None:
    assert isinstance(evidence_of(quoted), GateRejection)


def test_a_draft_without_a_text_needs_no_evidence() -> None:
    assert isinstance(evidence_of("", text=None), DraftCandidate)


@pytest.mark.parametrize(
    ("text", "quoted"),
    [
        ("Das Café o\u0308ffnet früh um sieben.", "Cafe\u0301 öffnet früh"),
        ("A \ufb01ne ef\ufb01cient \ufb02ow of work", "fine efficient flow"),
        ("a hyphen\u00adated word and\u200b more", "hyphenated word and more"),
        ("超时时间\n为三十秒。之后重试。", "超时时间为三十秒"),
    ],
)
def test_characters_that_only_print_otherwise_do_not_count(text: str, quoted: str) -> None:
    span = find_span(quoted, text)
    assert span is not None and isinstance(evidence_of(quoted, text), DraftCandidate)


POINTING = [
    "What is mentioned in the text above?",
    "According to the passage, how long does it wait?",
    "Based on the document, what is the default?",
    "What does the author recommend?",
    "Which settings are named in this section?",
    "Which values does the following table list?",
    "What is shown in Figure 3?",
    "How long does it keep in the refrigerator?",
    "How many times did she ask before the meeting?",
    "Why do they refuse a larger body?",
    "What does it do when the pool is empty?",
    "Was steht im obigen Text?",
    "Wie lange wartet der Client laut Dokument?",
    "Wie viele Versuche werden in diesem Abschnitt genannt?",
    "Selon le texte, combien de secondes ?",
    "Que dit l’auteur de la limite ?",
    "Según el texto, ¿cuál es el límite?",
    "¿Qué dice el documento sobre el límite?",
    "根据上文，默认值是多少？",
    "文中提到的超时时间是多少？",
    "本文によると、制限は何ですか。",
    "上の表で最大の値は何ですか。",
]
SELF_CONTAINED = [
    "Which method of the document API deletes a record by its key?",
    "What does the text field hold?",
    "How is a sample masked in the context of a rollout?",
    "Which section of the YAML holds the limits?",
    "How does the author of a pull request ask for a review?",
    "What does this code print?\n\nprint(1 + 2)",
    "Given the following list: 3, 5, 9, 12, 44, 91, what is its sum?",
    "What does Article 5 of the GDPR regulate?",
    "Which values above 0.5 are refused?",
    "How long does it take to bake a rye loaf?",
    "When does it make sense to raise the limit of the gateway?",
    "The gateway is silent for 25 seconds. What does it do then?",
    "When it is silent, what does the gateway do?",
    "Where do they speak Portuguese?",
    "Is it allowed to renew a film?",
    "What does its port say?",
    "How do I add a table below the chart?",
    "Wie heißt das Textfeld im Dokumenteneditor?",
    "Welche Einstellung im Abschnitt rollout begrenzt die Aufrufe?",
    "Quel document faut-il présenter au consulat ?",
    "¿Qué documento hay que presentar?",
    "文档类型有哪些？",
    "著者名の一覧はどこにありますか。",
]


@pytest.mark.parametrize("question", POINTING)
def test_a_question_that_points_to_a_text_is_refused_with_its_words(question: str) -> None:
    outcome = check(SelfContainedGate(), make_candidate(question, "25"))
    assert isinstance(outcome, GateRejection)
    assert (find_pointing_phrase(question) or "-") in outcome.reason


@pytest.mark.parametrize("question", SELF_CONTAINED)
def test_a_question_about_documents_is_left(question: str) -> None:
    assert find_pointing_phrase(question) is None


def test_no_pattern_repeats_without_a_bound() -> None:
    # So that time grows with the length of a question and no faster, whatever it holds.
    for phrases in PHRASES.values():
        for pattern in (phrases.always.pattern, phrases.unless_shown.pattern):
            assert not {"*", "+"} & set(pattern) and ",}" not in pattern


REFUSED_ALL_THE_SAME = {"127.0.0.1"}
"""The answer of a sound draft whose evidence joins two places."""


def test_the_planted_faults_of_text_are_taken_and_no_others() -> None:
    gates = [EvidenceGate(), SelfContainedGate()]
    for planted in PLANTED:
        outcomes = [check(gate, planted.candidate) for gate in gates]
        took = [outcome.gate for outcome in outcomes if isinstance(outcome, GateRejection)]
        expected = [gate.name for gate in gates if gate.name == planted.gate]
        if planted.candidate.draft.answer in REFUSED_ALL_THE_SAME:
            expected = ["evidence"]
        assert took == expected, planted.candidate.draft.question
