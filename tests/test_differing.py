"""Where texts and conversations part, and what is new in an answer."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from astuner.logview.view.answers import MAX_SHOWN, answers_in_order
from astuner.logview.view.differing import first_difference, num_shared, parted, passages
from astuner.logview.view.excerpt import excerpt

TEXTS = st.text(alphabet="ab ,.\n\ud800汉", max_size=12)


def marked(text, before):
    """New passages in brackets."""
    found = passages(text, before)
    return "".join(f"[{one.text}]" if one.is_new else one.text for one in found)


def test_the_messages_that_all_begin_with_are_counted():
    assert num_shared([["hi", "a", "x"], ["hi", "a"], ["hi", "b"]]) == 1
    assert num_shared([["hi", "a"], ["hi", "a"]]) == 2
    assert num_shared([["hi"], []]) == 0
    assert num_shared([]) == 0


def test_a_conversation_that_ends_first_differs_where_the_other_goes_on():
    assert first_difference(["hi", "a"], ["hi", "a", "x"]) == 2
    assert first_difference(["hi", "a"], ["hi", "b", "x"]) == 1
    assert first_difference(["hi"], ["hi"]) is None


def test_a_text_parts_from_another_at_a_whole_word():
    found = parted("9 + 1 equals 10", "9 + 1 equal 10")
    assert (found.shared, found.differing, found.rest) == ("9 + 1 ", "equals", " 10")


def test_a_text_that_ends_first_has_no_differing_word():
    found = parted("9 + 1 = 10", "9 + 1 = 10.")
    assert found.shared == "9 + 1 = 10" and found.ends_early and not found.is_equal
    other = parted("9 + 1 = 10.", "9 + 1 = 10")
    assert (other.differing, other.ends_early) == (".", False)


def test_other_white_space_is_marked_with_the_word_behind_it():
    assert parted("a\n\nb", "a b").differing == "\n\nb"


def test_scripts_without_spaces_part_at_a_character():
    found = parted("我不知道", "我不明白")
    assert (found.shared, found.differing, found.rest) == ("我不", "知", "道")


def test_equal_texts_do_not_part():
    assert parted("same", "same").is_equal


@given(TEXTS, TEXTS)
def test_the_parts_of_a_text_are_the_text(text, other):
    found = parted(text, other)
    assert found.shared + found.differing + found.rest == text
    assert other.startswith(found.shared)
    assert found.is_equal == (text == other)
    assert found.ends_early == (other.startswith(text) and other != text and not found.differing)


def test_long_texts_part_at_once_however_far_in():
    beginning = "x y " * 5_000_000
    found = parted(f"{beginning}left", f"{beginning}right")
    assert (len(found.shared), found.differing) == (len(beginning), "left")


def test_words_that_the_answer_before_had_not_are_new():
    assert marked("it is 10", "it is 9") == "it is [10]"
    assert marked("it is 10", "it is 10") == "it is 10"
    assert marked("so it is ten now", "it is 9") == "[so] it is [ten now]"
    assert marked("10", "") == "[10]"


@given(TEXTS, TEXTS)
def test_the_passages_of_an_answer_are_the_answer(text, before):
    found = passages(text, before)
    assert "".join(one.text for one in found) == text
    assert all(one.is_new != other.is_new for one, other in pairwise(found))


def test_a_step_whose_answer_is_not_known_is_passed_over():
    first, unknown, third = answers_in_order(["it is 9", None, "it is 10"])
    assert first is not None and third is not None and unknown is None
    assert not any(one.is_new for one in first.passages)
    assert [one.text for one in third.passages if one.is_new] == ["10"]


def test_an_answer_beyond_its_room_tells_how_much_is_not_shown():
    (answer,) = answers_in_order(["a" * (MAX_SHOWN + 7)])
    assert answer is not None and answer.num_hidden == 7


def test_a_card_cuts_a_long_text_round_the_word_that_differs():
    text = parted("a " * 1000 + "left" + " b" * 1000, "a " * 1000 + "right")
    cut = excerpt(text, most=1000)
    assert cut.differing == "left" and cut.before == "a " * 100
    assert cut.num_hidden_before == 1800
    shown = len(cut.before) + len(cut.differing) + len(cut.behind)
    assert shown + cut.num_hidden_before + cut.num_hidden_behind == 4004


def test_a_card_shows_a_short_text_whole_and_a_kept_page_every_text():
    short = excerpt(parted("left", "right"))
    assert (short.num_hidden_before, short.differing, short.num_hidden_behind) == (0, "left", 0)
    whole = excerpt(parted("a " * 5000, "b"), most=None)
    assert whole.num_hidden_before == whole.num_hidden_behind == 0
