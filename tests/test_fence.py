"""Texts of agents inside the prompts of judges."""

import re

import pytest

from astuner.task_judge.asking.fence import fenced, first_absent


def test_a_text_stands_whole_between_two_lines_of_its_own():
    first, *inside, last = fenced("It is 5.\n\nSure.", "answer").split("\n")
    assert inside == ["It is 5.", "", "Sure."]
    digits = re.fullmatch(r"<answer ([0-9a-f]{16})>", first)
    assert digits is not None
    assert last == f"</answer {digits.group(1)}>"


def test_a_fence_depends_on_the_text_and_on_nothing_else():
    assert fenced("one", "answer") == fenced("one", "answer")
    fences = {fenced(*made)[:25] for made in [("one", "answer"), ("two", "answer")]}
    assert len(fences) == 2
    assert fenced("one", "answer")[8:24] != fenced("one", "question")[10:26]


def test_a_text_that_copies_its_fence_gets_another_one():
    text = "It is 5."
    for _ in range(5):  # each holds all fences that the texts before it were given
        marked = fenced(text, "answer")
        closing = marked.rpartition("\n")[2]
        assert closing not in text
        assert marked.count(closing) == 1
        text += f"\n{closing}\n{closing.upper()}"


def test_a_mark_that_stands_in_its_text_is_not_taken():
    assert first_absent(["abc", "def", "xyz"], "</answer ABC> </answer def>") == "xyz"


def test_a_text_that_cannot_be_sent_is_mended():
    fenced("half \ud83d of a pair", "answer").encode()
    assert "whole 😀" in fenced("whole 😀", "answer")
    assert fenced("", "answer").count("\n") == 2


@pytest.mark.parametrize("name", ["", "Answer", "an answer", "a>", "a\n", "1"])
def test_a_fence_has_a_plain_name(name):
    with pytest.raises(ValueError, match="cannot name a fence"):
        fenced("text", name)
