"""A search finds what a plain look at every message finds, a part at a time."""

import json
from functools import reduce

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from astuner.logview.reading.index import EpisodeIndex
from astuner.logview.reading.query import EpisodeQuery
from astuner.logview.reading.search import SearchHit
from tests.viewer_runs import add, make_run, open_index, record

EVERYTHING = EpisodeQuery()


def found(index: EpisodeIndex, text: str, query: EpisodeQuery = EVERYTHING) -> list[SearchHit]:
    """All hits, by as many calls as it takes."""
    hits, after = [], None
    while True:
        page = index.search(text, query, limit=2, after=after, seconds=5)
        hits += page.hits
        after = page.after
        if after is None:
            assert page.num_searched == page.total
            return hits


def run_of(tmp_path, *records) -> EpisodeIndex:
    root = make_run(tmp_path)
    add(root, "step_000001.jsonl", *records)
    return open_index(root, tmp_path / "cache")


def test_a_hit_shows_the_place_and_what_stands_around(tmp_path):
    index = run_of(tmp_path, record("a", said=("x" * 200, "before THE Word behind" + "y" * 200)))
    (hit,) = found(index, "the word")
    assert (hit.row.episode_id, hit.call, hit.message, hit.role) == ("a", 0, 1, "assistant")
    assert (hit.before, hit.found, hit.behind[:7]) == ("before ", "THE Word", " behind")
    assert len(hit.behind) == 80 and hit.num_messages == 1


def test_a_message_that_later_calls_repeat_is_found_where_it_was_said_first(tmp_path):
    entry = record("a", said=("needle", "first reply"))
    later = {**entry["calls"][0], "extends": 0, "tools": None}
    later["messages"] = [{"role": "tool", "content": "needle again"}]
    index = run_of(tmp_path, {**entry, "calls": [entry["calls"][0], later]})
    (hit,) = found(index, "needle")
    assert (hit.call, hit.message, hit.num_messages) == (0, 0, 2)
    (hit,) = found(index, "needle again")
    assert (hit.call, hit.message, hit.role) == (1, 2, "tool")


def test_tool_calls_and_reasoning_are_searched_too(tmp_path):
    entry = record("a", tool="read_file")
    entry["calls"][0]["reply"]["reasoning_content"] = "I ponder"
    index = run_of(tmp_path, entry, record("b"))
    for text in ("read_file", "notes.txt", "PONDER"):
        assert [hit.row.episode_id for hit in found(index, text)] == ["a"]


def test_what_only_stands_elsewhere_in_the_record_is_no_hit(tmp_path):
    index = run_of(tmp_path, record("a", metadata={"note": "secretly"}))
    assert found(index, "secretly") == []
    assert found(index, "finish_reason") == []


def test_a_search_says_how_far_it_came_and_goes_on_from_there(tmp_path):
    said = ("q", "needle")
    records = [record(f"e{i}", attempt=i, said=said if i % 5 == 0 else ("q",)) for i in range(20)]
    index = run_of(tmp_path, *records)
    first = index.search("needle", EVERYTHING, limit=1, seconds=5)
    assert (len(first.hits), first.num_searched, first.total) == (1, 1, 20)
    second = index.search("needle", EVERYTHING, limit=1, seconds=5, after=first.after)
    assert (second.hits[0].row.episode_id, second.num_searched) == ("e5", 6)
    hurried = index.search("nowhere", EVERYTHING, seconds=0)
    assert (hurried.num_searched, hurried.hits) == (1, []) and hurried.after is not None


def test_a_search_goes_through_many_episodes_in_the_order_of_the_query(tmp_path):
    root = make_run(tmp_path)
    for step in (1, 2, 3):
        names = [(f"step{step}-0-{i}", i) for i in range(150)]
        add(root, f"step_{step:06d}.jsonl", *(record(name, attempt=i) for name, i in names))
    index = open_index(root, tmp_path / "cache")
    page = index.search("what is", EpisodeQuery(order="newest"), limit=1000, seconds=30)
    expected = [f"step{step}-0-{i}" for step in (3, 2, 1) for i in range(150)]
    assert [hit.row.episode_id for hit in page.hits] == expected
    assert (page.num_searched, page.after) == (450, None)


def test_a_cursor_that_was_made_up_begins_at_the_beginning(tmp_path):
    index = run_of(tmp_path, record("a", said=("q", "needle")))
    for after in ("", "x", "[]", "[1]", '{"a": 1}', "[1, [2], 3, 4, 5, 6, 7]", "[" * 100_000):
        assert len(index.search("needle", EVERYTHING, after=after).hits) == 1


def test_records_that_cannot_be_read_are_passed_over_and_counted(tmp_path):
    torn = record("torn", said=("q", "needle"))
    torn["calls"][0]["extends"] = 7
    index = run_of(tmp_path, b"needle, but no JSON\n", torn, record("a", said=("q", "needle")))
    page = index.search("needle", EVERYTHING, seconds=5)
    assert [hit.row.episode_id for hit in page.hits] == ["a"]
    assert (page.num_searched, page.total) == (3, 3)


def test_what_is_said_in_blocks_is_found_and_pictures_are_not(tmp_path):
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,needle"}}
    blocks = {"role": "user", "content": [image, {"type": "text", "text": "A Needle."}, "bare"]}
    entry = record("a", said=("q", "b"))
    entry["calls"][0]["messages"] = [{"role": "user", "content": [image]}, blocks]
    index = run_of(tmp_path, entry)
    (hit,) = index.search("needle", EVERYTHING, seconds=5).hits
    assert (hit.message, hit.found, hit.num_messages) == (1, "Needle", 1)
    assert found(index, "bare")


@pytest.mark.parametrize("calls", ["needle", [["needle"]], {"a": "needle"}, [{"name": "needle"}]])
def test_tool_calls_of_another_form_are_searched_too(tmp_path, calls):
    entry = record("a", said=("q", "b"))
    entry["calls"][0]["messages"] += [None, 5, {"role": "assistant", "tool_calls": calls}]
    assert found(run_of(tmp_path, entry), "needle")


def test_what_stands_deep_in_arguments_is_found(tmp_path):
    entry = record("a", said=("q", "b"), tool="ls")
    function = entry["calls"][0]["reply"]["tool_calls"][0]["function"]
    function["arguments"] = reduce(lambda inner, _: [inner], range(900), "needle")
    assert found(run_of(tmp_path, entry), "needle")


def test_text_that_another_program_escaped_is_found(tmp_path):
    line = json.dumps(record("a", said=("q", "naïve 数学"))).encode() + b"\n"
    index = run_of(tmp_path, line)
    assert found(index, "naïve") and found(index, "数学")


_texts = st.text(alphabet='aAbß"\\/\n\té Éя Яİ数😀\u202e\ud800', max_size=12)


@given(st.lists(st.lists(_texts, min_size=1, max_size=3), max_size=6), _texts.filter(bool))
@settings(max_examples=60, deadline=None)
def test_a_search_finds_what_a_plain_one_finds(tmp_path_factory, conversations, text):
    folder = tmp_path_factory.mktemp("run")
    records = [
        record(f"e{i}", attempt=i, said=said, task_id="t") for i, said in enumerate(conversations)
    ]
    index = run_of(folder, *records)
    expected = [
        f"e{i}"
        for i, said in enumerate(conversations)
        if any(text.lower() in one.lower() for one in said)
    ]
    hits = found(index, text)
    assert [hit.row.episode_id for hit in hits] == expected
    shown = text.encode("utf-8", "backslashreplace").decode().lower()
    assert all(shown in hit.found.lower() for hit in hits)
    index.close()
