"""Personal data and secrets, by the real detectors."""

import asyncio
import re
import sys

import pytest

from astuner.errors import ConfigError
from astuner.task_generation.draft import DraftCandidate, GateRejection
from astuner.task_generation.gates.evidence import EvidenceGate
from astuner.task_generation.gates.personal_data import PersonalDataGate, mask
from astuner.task_generation.gates.private_spans import PrivateSpanFinder
from tests.task_generation.drafts import make_candidate
from tests.task_generation.planted import KEY, PLANTED

pytest.importorskip("detect_secrets")
pytest.importorskip("phonenumbers")

PRIVATE_KEY = "-----{0} RSA PRIVATE KEY-----\nMIIEow1234\n-----{1} RSA PRIVATE KEY-----"
ARMOURED = PRIVATE_KEY.format("BEGIN", "END")
PRIVATE = {
    "jane.doe@acme.org": "e-mail address",
    "+49 30 901820": "telephone number",
    "93.184.216.34": "IP address",
    "2001:4860:1234::7777": "IP address",
    "4539 1488 0343 6467": "card number",
    "DE44 5001 0517 5407 3249 31": "bank account",
    "536-22-8726": "social security number",
    "11010519491231002X": "identity number",
    KEY: "key or password",
    "hf_" + "Ab1" * 11: "key or password",
    **{
        beginning + "ab1c" * 8: "key or password"
        for beginning in (
            *("r8_", "dop_v1_", "dapi", "lin_api_", "shpat_", "hvs.", "ya29.", "GOCSPX-", "sbp_"),
            *("PMAK-", "NRAK-", "glsa_", "sntrys_", "pplx-", "nvapi-", "lsv2_pt_"),
        )
    },
}
HARMLESS = [
    "What is 1234567890 * 3.14159265358979?",
    "Is 4539148803436468 divisible by 4? And 2125550123 or 212-555-0123 by 7?",
    "Write to support@acme.org or to jane@example.com.",
    "It listens on 192.168.0.1, 203.0.113.7 and 127.0.0.1; 8.8.8.8 resolves names.",
    "Needs version 3.8.14.2 of it.",
    "Call +1 212 555 0123.",
    "Pay with 4242 4242 4242 4242 in the test mode.",
    "Connect to postgres://user:password@localhost/x",
    'api_key: "your-api-key-1"',
    "sha256 " + "ab12" * 16 + " of 123e4567-e89b-12d3-a456-426614174000",
    "What does the password policy ask for at 12:30:45 on 2024-05-17?",
    "ISBN 978-3-16-148410-0, std::vector::iterator, 300-400-500",
    "The phone sold 3500000 times from 2019 to 2024.",
    "Who was Ada Lovelace?",
    "The password is not stored; the password: <your password1>; the password must be new.",
    "It is the api key of section 12, and dapiarist12345678901234567890123456.",
]


@pytest.fixture(scope="module")
def finder() -> PrivateSpanFinder:
    return PrivateSpanFinder()


@pytest.mark.parametrize(
    "before",
    [
        "my password is ",
        "Password: ",
        "mein Passwort lautet ",
        "the API key is ",
        "密码是",
        "密码\uff1a",
    ],
)
def test_a_password_that_somebody_tells_is_found_and_the_words_around_it_stay(
    finder: PrivateSpanFinder, before: str
) -> None:
    text = f"{before}Tr0ub4dor-3, please log in"
    [span] = finder.find(text)
    assert (text[span.begin : span.end], span.kind) == ("Tr0ub4dor-3", "key or password")


def check(
    finder: PrivateSpanFinder, candidate: DraftCandidate, treatment: str = "refuse"
) -> DraftCandidate | GateRejection:
    return asyncio.run(PersonalDataGate(finder, treatment=treatment).check(candidate))


@pytest.mark.parametrize(("value", "kind"), PRIVATE.items())
def test_what_nobody_else_should_read_is_found_with_its_kind(
    finder: PrivateSpanFinder, value: str, kind: str
) -> None:
    text = f"It is ({value}), she said."
    assert mask(text, finder) == f"It is ([{kind}]), she said."


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        (f"It begins {ARMOURED} and ends", "It begins -----[key or password] and ends"),
        (f"cut off: {ARMOURED[:40]}", "cut off: -----[key or password]"),
        ('password = "Sommer2024x"', 'password = "[key or password]"'),
        ("postgres://admin:hunter42x@db.acme.org", "postgres[key or password]"),
        ("Call 212-671-2345 today", "Call [telephone number] today"),
        ("Handy: 0151 23456789", "Handy: [telephone number]"),
        ("拨打电话13812345678", "拨打电话[telephone number]"),
    ],
)
def test_what_is_found_by_the_words_around_it(
    finder: PrivateSpanFinder, text: str, masked: str
) -> None:
    assert mask(text, finder) == masked


@pytest.mark.parametrize("text", HARMLESS)
def test_numbers_of_mathematics_and_examples_of_documentation_are_left(
    finder: PrivateSpanFinder, text: str
) -> None:
    assert finder.find(text) == []


def test_a_refusal_names_field_and_kind_and_holds_no_value(finder: PrivateSpanFinder) -> None:
    candidate = make_candidate("Which key?", KEY, evidence=f"It is {KEY}; ask jane.doe@acme.org.")
    outcome = check(finder, candidate)
    assert isinstance(outcome, GateRejection)
    assert outcome.reason == (
        "its answer holds a key or password, its evidence holds an e-mail address and a key or "
        "password"
    )
    assert KEY not in repr(outcome) and "jane.doe" not in repr(outcome)


def test_masking_puts_kinds_in_place_of_values_and_notes_them(finder: PrivateSpanFinder) -> None:
    candidate = make_candidate(
        "Who is on duty?", "Jane, jane.doe@acme.org", evidence="Jane (jane.doe@acme.org) is."
    )
    outcome = check(finder, candidate, "mask")
    assert isinstance(outcome, DraftCandidate)
    assert outcome.draft.answer == "Jane, [e-mail address]"
    assert outcome.draft.evidence == "Jane ([e-mail address]) is."
    assert outcome.notes == {"masked": ["e-mail address"]}


def test_an_answer_that_is_nothing_but_masked_is_refused(finder: PrivateSpanFinder) -> None:
    outcome = check(finder, make_candidate("Which address?", "jane.doe@acme.org."), "mask")
    assert isinstance(outcome, GateRejection) and "nothing is left" in outcome.reason


def test_evidence_that_is_masked_afterwards_keeps_its_place(finder: PrivateSpanFinder) -> None:
    text = "On duty is Jane Doe (jane.doe@acme.org) until noon."
    candidate = make_candidate(
        "Until when?", "noon", evidence="(jane.doe@acme.org) until noon", text=text
    )
    known = asyncio.run(EvidenceGate().check(candidate))
    assert isinstance(known, DraftCandidate)
    outcome = check(finder, known, "mask")
    assert isinstance(outcome, DraftCandidate)
    begin, end = outcome.notes["evidence_span"]
    assert text[begin:end] == "(jane.doe@acme.org) until noon"
    assert "jane.doe" not in outcome.draft.evidence


def test_a_text_that_would_take_long_to_look_through_is_refused_and_cut(
    finder: PrivateSpanFinder,
) -> None:
    text = "sk-" * 100_000
    outcome = check(finder, make_candidate("Why?", text), "mask")
    assert isinstance(outcome, GateRejection) and "its answer has more than" in outcome.reason
    assert len(mask(text, finder)) < 11_000


def test_the_planted_personal_data_is_taken_and_nothing_else(finder: PrivateSpanFinder) -> None:
    for planted in PLANTED:
        outcome = check(finder, planted.candidate)
        # Where somebody lives has no form by which it could be known.
        is_found = planted.gate == "personal_data" and planted.fault != "where a person lives"
        assert isinstance(outcome, GateRejection) == is_found, planted.fault


def test_a_missing_package_is_named_with_the_way_to_install_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "phonenumbers", None)
    with pytest.raises(ConfigError, match=re.escape("pip install 'astuner[generation]'")):
        PrivateSpanFinder()
