"""The index follows the files of episodes, whatever becomes of them, and finds what is asked."""

import json
import logging
import os
import random
import shutil
import sqlite3
import threading
from functools import reduce
from operator import getitem
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from astuner.errors import UnreadableError
from astuner.logview.reading.cache import VERSION, IndexCache
from astuner.logview.reading.index import EpisodeIndex
from astuner.logview.reading.indexing import Indexer
from astuner.logview.reading.inventory import FoundFile, episode_files
from astuner.logview.reading.lines import json_object
from astuner.logview.reading.query import ORDERS, EpisodeQuery, filter_of
from astuner.logview.reading.row import EpisodeRow, Place, row_of
from astuner.logview.reading.skim import skim
from tests.viewer_runs import add, make_run, open_index, record

EVERYTHING = EpisodeQuery()


def ids_of(index: EpisodeIndex, query: EpisodeQuery = EVERYTHING) -> list[str]:
    return [row.episode_id for row in index.rows(query, limit=1000, offset=0).rows]


class CountedReads(IndexCache):
    """Counts what is asked of the tables."""

    num_reads = 0

    def read(self, sql, values=()):
        self.num_reads += 1
        return super().read(sql, values)


def some(*episode_ids: str):
    return [record(episode_id, attempt=i) for i, episode_id in enumerate(episode_ids)]


def test_nothing_is_read_before_it_is_asked_for(tmp_path):
    root = make_run(tmp_path)
    add(root, "step_000001.jsonl", *some("a"))
    index = EpisodeIndex(root, tmp_path / "cache")
    assert ids_of(index) == []
    index.refresh(seconds=None)
    assert ids_of(index) == ["a"]


def test_a_row_tells_the_facts_of_its_record(tmp_path):
    root = make_run(tmp_path)
    said = ("Find\n  it", "I look")
    add(root, "validation_000007.jsonl", record("e", tool="read", said=said, attempt=3))
    (row,) = open_index(root, tmp_path / "cache").rows(EVERYTHING, limit=5).rows
    assert (row.step, row.is_validation, row.attempt, row.title) == (7, True, 3, "Find it")
    assert (row.reward, row.is_success, row.failure) == (1.0, True, None)
    assert (row.agents, row.tools) == (("solver",), ("read",))
    assert (row.num_sampled_tokens, row.num_trained_tokens, row.num_sequences) == (6, 6, 1)


def test_a_failed_episode_is_told_by_the_first_line_of_its_error(tmp_path):
    root = make_run(tmp_path)
    add(root, "step_000001.jsonl", record(reward=None))
    (row,) = open_index(root, tmp_path / "cache").rows(EVERYTHING, limit=5).rows
    assert (row.failure, row.reward) == ("WorkflowError: boom", None)


def test_what_is_appended_is_added_to_what_is_known(tmp_path):
    root = make_run(tmp_path)
    add(root, "step_000001.jsonl", *some("a", "b"))
    index = open_index(root, tmp_path / "cache")
    add(root, "step_000001.jsonl", *some("c"))
    index.refresh()
    assert sorted(ids_of(index)) == ["a", "b", "c"]


def test_a_torn_last_line_is_left_until_it_has_its_end(tmp_path):
    root = make_run(tmp_path)
    line = json.dumps(record("late")).encode()
    add(root, "step_000001.jsonl", *some("a"), line[:100])
    index = open_index(root, tmp_path / "cache")
    assert ids_of(index) == ["a"]
    add(root, "step_000001.jsonl", line[100:] + b"\n")
    index.refresh()
    assert sorted(ids_of(index)) == ["a", "late"]


def test_a_torn_line_that_was_cut_off_is_never_mixed_with_what_follows(tmp_path):
    root = make_run(tmp_path)
    path = add(root, "step_000001.jsonl", *some("a"))
    size = path.stat().st_size
    add(root, "step_000001.jsonl", b'{"episode_id": "torn')
    index = open_index(root, tmp_path / "cache")
    os.truncate(path, size)
    add(root, "step_000001.jsonl", *some("b", "c"))
    index.refresh()
    assert sorted(ids_of(index)) == ["a", "b", "c"]


@pytest.mark.parametrize("is_longer", [True, False])
def test_a_file_that_was_replaced_is_read_again(tmp_path, is_longer):
    root = make_run(tmp_path)
    path = add(root, "step_000001.jsonl", *some("a", "b"))
    index = open_index(root, tmp_path / "cache")
    path.unlink()
    add(root, "step_000001.jsonl", *(some("x", "y", "z") if is_longer else some("x")))
    assert index.refresh(seconds=None).is_whole
    assert sorted(ids_of(index)) == (["x", "y", "z"] if is_longer else ["x"])


def test_a_file_that_was_written_over_in_its_place_is_read_again(tmp_path):
    root = make_run(tmp_path)
    path = add(root, "step_000001.jsonl", *some("a", "b"))
    index = open_index(root, tmp_path / "cache")
    lines = b"".join(json.dumps(entry).encode() + b"\n" for entry in some("xx", "yy", "zz"))
    with path.open("r+b") as file:  # the same inode
        file.write(lines)
    assert index.refresh(seconds=None).is_whole
    assert sorted(ids_of(index)) == ["xx", "yy", "zz"]


def test_a_file_that_is_gone_takes_its_episodes_along(tmp_path):
    root = make_run(tmp_path)
    add(root, "step_000001.jsonl", *some("a"))
    add(root, "step_000002.jsonl", *some("b")).unlink()
    path = add(root, "step_000003.jsonl", *some("c"))
    index = open_index(root, tmp_path / "cache")
    path.unlink()
    index.refresh()
    assert ids_of(index) == ["a"]
    assert [step.step for step in index.steps()] == [1]


def test_of_a_run_that_is_gone_the_list_stays_and_reading_says_so(tmp_path):
    root = make_run(tmp_path)
    add(root, "step_000001.jsonl", *some("a"))
    index = open_index(root, tmp_path / "cache")
    (row,) = index.rows(EVERYTHING, limit=5).rows
    shutil.rmtree(root)
    assert index.refresh().is_whole
    assert ids_of(index) == ["a"]
    with pytest.raises(UnreadableError, match="is gone; it was deleted, moved"):
        index.read(row)


def test_the_second_opening_opens_no_file_of_episodes(tmp_path):
    root = make_run(tmp_path)
    path = add(root, "step_000001.jsonl", *some("a", "b"))
    open_index(root, tmp_path / "cache").close()
    stat = path.stat()
    path.write_bytes(b"x" * stat.st_size)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert ids_of(open_index(root, tmp_path / "cache")) == ["a", "b"]


def test_a_step_that_is_asked_for_is_read_before_the_others(tmp_path):
    root = make_run(tmp_path)
    for step in range(1, 6):
        add(root, f"step_{step:06d}.jsonl", *some(*(f"step{step}-{i}-0" for i in range(3))))
    index = EpisodeIndex(root, tmp_path / "cache")
    for _ in range(3):
        assert not index.refresh(step=2, is_validation=False, seconds=1e-9).is_whole
    assert ids_of(index) == ["step2-0-0", "step2-1-0", "step2-2-0"]


def test_work_goes_on_where_the_time_was_over(tmp_path):
    root = make_run(tmp_path)
    add(root, "step_000001.jsonl", *some(*(f"e{i}" for i in range(20))))
    index = EpisodeIndex(root, tmp_path / "cache")
    done = [index.refresh(seconds=1e-9).done_bytes for _ in range(20)]
    assert done == sorted(set(done))
    assert index.refresh(seconds=1e-9).is_whole
    assert len(ids_of(index)) == 20


def test_a_line_that_is_too_long_is_a_row_that_says_so(tmp_path):
    root = make_run(tmp_path)
    long = record("long", said=("x" * 5_000_000, "y"))
    add(root, "step_000001.jsonl", *some("a"), long, *some("b"))
    index = open_index(root, tmp_path / "cache", max_line_bytes=10_000)
    (row,) = index.rows(EpisodeQuery(problem=True), limit=5).rows
    assert "lines of up to 10,000 are read" in (row.problem or "") and row.length > 5_000_000
    assert sorted(ids_of(index, EpisodeQuery(problem=False))) == ["a", "b"]
    with pytest.raises(UnreadableError, match="lines of up to 10,000 are read"):
        index.read(row)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"not json\n", "it is no JSON"),
        (b"[1, 2]\n", "no JSON object but list"),
        (b"\n", "it is no JSON"),
        (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n", "too deep"),
        (b'{"format": 9, "episode_id": "new"}\n', "recorded in format 9; .* reads up to 3"),
        (b'{"format": "x", "episode_id": "new"}\n', "recorded in format 'x'"),
        (b'{"format": 2, "episode_id": "half"}\n', "not whole: 'calls' is missing"),
        (b"\xff\xfe{}\n", "it is no JSON"),
    ],
)
def test_a_line_that_cannot_be_read_is_a_row_that_says_why(tmp_path, line, said):
    root = make_run(tmp_path)
    add(root, "step_000001.jsonl", *some("a"), line, *some("b"))
    index = open_index(root, tmp_path / "cache")
    (row,) = index.rows(EpisodeQuery(problem=True), limit=5).rows
    with pytest.raises(UnreadableError, match=said):
        index.read(row)
    assert index.locate(row.episode_id) == row
    assert sorted(ids_of(index, EpisodeQuery(problem=False))) == ["a", "b"]


@pytest.mark.parametrize(
    "missing", ["overflowed", "madness", "seconds", "verdict", "task", "calls"]
)
def test_a_record_without_a_field_is_never_guessed(tmp_path, missing):
    root = make_run(tmp_path)
    entry = record("half")
    del entry[missing]
    add(root, "step_000001.jsonl", entry)
    index = open_index(root, tmp_path / "cache")
    row = index.locate("half")
    assert row is not None
    with pytest.raises(UnreadableError, match=f"'{missing}' is missing"):
        index.read(row)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (["seconds"], None, "'seconds' is NoneType"),
        (["madness"], True, "'madness' is bool"),
        (["judging_seconds"], "1", "'judging_seconds' is str"),
        (["verdict", "rewards"], [1], "'rewards' of the verdict is list"),
        (["verdict", "source"], ["judge"], "'source' of the verdict is list"),
        (["calls", 0, "seconds"], [1], "'seconds' of call 1 is list"),
        (["calls", 0, "break_reason"], {}, "'break_reason' of call 1 is dict"),
        (["calls", 0, "completion_ids"], ["1"], "'completion_ids' of call 1 holds str"),
        (["calls", 0, "prompt_ids"], None, "'prompt_ids' of call 1 is NoneType"),
        (["calls", 0], None, "not whole"),
    ],
)
def test_a_field_of_another_form_makes_a_record_that_cannot_be_read(tmp_path, path, value, said):
    entry = record("odd")
    *outer, last = path
    reduce(getitem, outer, entry)[last] = value
    root = make_run(tmp_path)
    add(root, "step_000001.jsonl", entry)
    index = open_index(root, tmp_path / "cache")
    row = index.locate("odd")
    assert row is not None
    with pytest.raises(UnreadableError, match=said):
        index.read(row)


def test_a_record_of_the_first_format_is_read(tmp_path):
    root = make_run(tmp_path)
    entry = record("old")
    for key in ("format", "agents", "output"):
        del entry[key]
    add(root, "step_000001.jsonl", entry)
    index = open_index(root, tmp_path / "cache")
    row = index.locate("old")
    assert row is not None and row.problem is None and row.agents == ("solver",)
    assert index.read(row).episode.output is not None


def test_odd_text_survives(tmp_path):
    root = make_run(tmp_path)
    said = ("שלום \u202e right \ud800 alone \x00", "é😀")
    add(root, "step_000001.jsonl", record("id/../\udc80 שלום", task_id="\ud800", said=said))
    index = open_index(root, tmp_path / "cache")
    (row,) = index.rows(EVERYTHING, limit=5).rows
    assert row.problem is None and row.title == "שלום \u202e right \\ud800 alone \x00"
    assert row.episode_id == "id/../\\udc80 שלום"
    assert index.read(row).episode.calls[0].messages[0]["content"] == said[0]
    assert index.locate(row.episode_id) == row
    assert [group.task_id for group in index.task_steps(row.task_id)] == ["\\ud800"]


@pytest.mark.parametrize("reward", ["NaN", "Infinity", "1" + "0" * 400, '"high"', "[]"])
def test_a_reward_that_is_no_finite_number_is_not_known(tmp_path, reward):
    root = make_run(tmp_path)
    line = json.dumps(record("odd")).replace('"reward": 1.0', f'"reward": {reward}')
    add(root, "step_000001.jsonl", line.encode() + b"\n")
    (row,) = open_index(root, tmp_path / "cache").rows(EVERYTHING, limit=5).rows
    assert (row.episode_id, row.reward, row.problem) == ("odd", None, None)


def test_a_link_that_leads_out_of_the_run_is_not_followed(tmp_path):
    root = make_run(tmp_path)
    other = make_run(tmp_path, "secret")
    path = add(other, "step_000001.jsonl", *some("secret"))
    (root / "episodes" / "step_000001.jsonl").symlink_to(path)
    inner = add(root, "step_000002.jsonl", *some("mine"))
    (root / "episodes" / "step_000003.jsonl").symlink_to(inner)
    assert ids_of(open_index(root, tmp_path / "cache")) == ["mine", "mine"]


def test_a_folder_of_episodes_that_leads_out_of_the_run_is_not_followed(tmp_path):
    root = make_run(tmp_path)
    other = make_run(tmp_path, "secret")
    add(other, "step_000001.jsonl", *some("secret"))
    (root / "episodes").rmdir()
    (root / "episodes").symlink_to(other / "episodes")
    assert ids_of(open_index(root, tmp_path / "cache")) == []


def test_files_of_other_names_are_no_episodes(tmp_path):
    root = make_run(tmp_path)
    for name in ("step_x.jsonl", "step_000001.jsonl.bak", "notes.txt"):
        add(root, name, *some("no"))
    (root / "episodes" / "step_000002.jsonl").mkdir()
    assert ids_of(open_index(root, tmp_path / "cache")) == []


def test_a_record_that_was_changed_since_is_not_taken_for_another(tmp_path):
    root = make_run(tmp_path)
    path = add(root, "step_000001.jsonl", *some("a1", "b2"))
    index = open_index(root, tmp_path / "cache")
    row = index.locate("a1")
    assert row is not None
    path.write_bytes(path.read_bytes().replace(b'"a1"', b'"c3"'))
    with pytest.raises(UnreadableError, match="another record stands there now"):
        index.read(row)


def test_two_indexes_on_one_cache_at_once_agree_and_know_each_episode_once(tmp_path):
    root = make_run(tmp_path)
    for step in range(1, 9):
        names = [f"step{step}-0-{i}" for i in range(25)]
        add(root, f"step_{step:06d}.jsonl", *some(*names))
    indexes = [EpisodeIndex(root, tmp_path / "cache") for _ in range(3)]

    def work(index: EpisodeIndex) -> None:
        while not index.refresh(seconds=0.001).is_whole:
            pass

    threads = [threading.Thread(target=work, args=(index,)) for index in indexes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert not any(thread.is_alive() for thread in threads)
    for index in indexes:
        assert len(ids_of(index)) == len(set(ids_of(index))) == 200
        assert [step.num_episodes for step in index.steps()] == [25] * 8


def test_a_look_that_is_older_than_what_another_viewer_read_loses_nothing(tmp_path):
    root = make_run(tmp_path)
    add(root, "step_000001.jsonl", *some("a", "b"))
    other = open_index(root, tmp_path / "cache")

    def look_slowly(folder: Path) -> dict[str, FoundFile]:
        found = episode_files(folder)
        add(root, "step_000001.jsonl", *some("c", "d"))
        add(root, "step_000002.jsonl", *some("e"))
        other.refresh(seconds=None)
        return found

    indexer = Indexer(root, IndexCache(root, tmp_path / "cache"), look=look_slowly)
    indexer.refresh(step=None, is_validation=None, seconds=1e-9)
    assert sorted(ids_of(other)) == ["a", "b", "c", "d", "e"]


def _cache_file(cache: Path) -> Path:
    (found,) = cache.glob("*.sqlite")
    return found


@pytest.mark.parametrize("content", [b"", b"no database" * 1000])
def test_a_corrupt_cache_is_thrown_away(tmp_path, content):
    root = make_run(tmp_path)
    add(root, "step_000001.jsonl", *some("a"))
    open_index(root, tmp_path / "cache").close()
    _cache_file(tmp_path / "cache").write_bytes(content)
    assert ids_of(open_index(root, tmp_path / "cache")) == ["a"]


def test_a_cache_that_is_corrupt_inside_is_thrown_away(tmp_path):
    root = make_run(tmp_path)
    add(root, "step_000001.jsonl", *some(*(f"e{i:03}" for i in range(300))))
    open_index(root, tmp_path / "cache").close()
    path = _cache_file(tmp_path / "cache")
    content = bytearray(path.read_bytes())
    content[4096 * 3 :] = b"\x5a" * (len(content) - 4096 * 3)
    path.write_bytes(content)
    index = EpisodeIndex(root, tmp_path / "cache")
    for _ in range(3):
        index.refresh(seconds=None)
        ids_of(index)
    assert len(ids_of(index)) == 300


def test_a_cache_of_another_version_is_thrown_away(tmp_path):
    root = make_run(tmp_path)
    add(root, "step_000001.jsonl", *some("a"))
    open_index(root, tmp_path / "cache").close()
    connection = sqlite3.connect(_cache_file(tmp_path / "cache"))
    connection.execute("DELETE FROM episodes")
    connection.execute(f"PRAGMA user_version = {VERSION + 1}")
    connection.commit()
    connection.close()
    assert ids_of(open_index(root, tmp_path / "cache")) == ["a"]


def test_the_index_of_a_run_that_nobody_opens_is_deleted_in_time(tmp_path):
    cache = tmp_path / "cache"
    open_index(make_run(tmp_path, "old"), cache).close()
    old = _cache_file(cache)
    os.utime(old, (0, 0))
    open_index(make_run(tmp_path, "new"), cache).close()
    assert not old.exists() and _cache_file(cache).exists()


def test_an_index_that_is_opened_again_is_kept(tmp_path):
    cache, root = tmp_path / "cache", make_run(tmp_path, "old")
    open_index(root, cache).close()
    old = _cache_file(cache)
    os.utime(old, (0, 0))
    open_index(root, cache).close()
    open_index(make_run(tmp_path, "new"), cache).close()
    assert old.exists()


def test_where_the_cache_cannot_be_written_the_index_lives_in_memory(tmp_path, caplog):
    root = make_run(tmp_path)
    add(root, "step_000001.jsonl", *some("a"))
    (tmp_path / "cache").write_text("a file where the folder should be")
    with caplog.at_level(logging.WARNING):
        assert ids_of(open_index(root, tmp_path / "cache")) == ["a"]
    assert "the index is kept in memory" in caplog.text


def test_nothing_is_written_into_the_run(tmp_path):
    root = make_run(tmp_path)
    add(root, "step_000001.jsonl", *some("a"))
    before = {path: path.stat().st_mtime_ns for path in (root, *root.rglob("*"))}
    index = open_index(root, tmp_path / "cache")
    index.search("boom", EVERYTHING)
    assert {path: path.stat().st_mtime_ns for path in (root, *root.rglob("*"))} == before


def test_an_episode_that_is_not_indexed_yet_is_found_by_its_name(tmp_path):
    root = make_run(tmp_path)
    add(root, "validation_000005.jsonl", *some("validation5-0-0"))
    index = EpisodeIndex(root, tmp_path / "cache")
    row = index.locate("validation5-0-0")
    assert row is not None and row.is_validation
    assert index.locate("validation6-0-0") is None


def test_what_is_asked_for_may_be_anything(tmp_path):
    root = make_run(tmp_path)
    add(root, "step_000001.jsonl", *some("a"))
    index = open_index(root, tmp_path / "cache")
    for query in (
        EpisodeQuery(step=10**30, task_id="\ud800"),
        EpisodeQuery(min_tokens=-(10**30), max_reward=float("nan"), agent="\x00%_\x1f"),
    ):
        assert index.rows(query, limit=10**30, offset=10**30).rows == []
        assert index.search("a", query, after=f"[{10**30}, {10**30}, 0, 0, 0, 0, 0]").hits == []
    assert index.locate("\ud800") is None
    assert index.neighbours("\ud800", EVERYTHING) == (None, None)
    assert index.groups(10**30, False) == [] and index.task_steps("\ud800") == []


def test_a_line_gives_the_same_row_whether_it_is_skimmed_or_read_whole():
    place = Place(step=1, is_validation=False, file="f", offset=0, length=1)
    untrained = record("b", tool="run", madness="repeats")
    untrained["calls"][0] |= {"is_trained": False, "break_reason": "edited"}
    empty = record("c", said=("", ""))
    empty["calls"][0] |= {"completion_ids": [], "logprobs": []}
    counted = record("d")
    counted["calls"][0] |= {"completion_ids": [], "logprobs": [], "counted_tokens": [40, 6]}
    known = (record("a", tool="read"), record(reward=None), untrained, empty, counted)
    for entry in (*known, {"format": 3}):
        line = json.dumps(entry).encode()
        assert row_of(skim(line), place) == row_of(json_object(line), place)
    assert row_of(skim(json.dumps(counted).encode()), place).num_sampled_tokens == 6


def _group_run(root: Path) -> None:
    for step, rewards in ((0, (0.0, 0.0)), (4, (1.0, None))):
        entries = [
            record(f"v{step}-{i}", task_id="t", attempt=i, reward=reward)
            for i, reward in enumerate(rewards)
        ]
        steady = record(f"v{step}-u", task_id="u")
        add(root, f"validation_{step:06d}.jsonl", *reversed(entries), steady)
    add(root, "step_000001.jsonl", record("s", task_id="t"))


def test_a_group_has_its_episodes_by_attempt(tmp_path):
    root = make_run(tmp_path)
    _group_run(root)
    first, second = open_index(root, tmp_path / "cache").groups(4, True)
    assert (first.task_id, second.task_id) == ("t", "u")
    assert first.episode_ids == ("v4-0", "v4-1")
    assert (first.rewards, first.successes) == ((1.0, None), (True, None))
    assert (first.mean, first.spread, first.num_failed) == (1.0, 0.0, 1)
    assert (first.num_episodes, first.num_solved) == (2, 1)


def test_a_task_is_followed_over_all_steps(tmp_path):
    root = make_run(tmp_path)
    _group_run(root)
    groups = open_index(root, tmp_path / "cache").task_steps("t")
    assert [(group.step, group.is_validation) for group in groups] == [
        (0, True),
        (1, False),
        (4, True),
    ]


def test_tasks_are_listed_by_how_much_they_changed(tmp_path):
    root = make_run(tmp_path)
    _group_run(root)
    changes = open_index(root, tmp_path / "cache").task_changes(limit=5)
    assert [(change.task_id, change.change) for change in changes] == [("t", 1.0), ("u", 0.0)]
    assert (changes[0].first.step, changes[0].last.step) == (0, 4)


def test_a_task_changes_between_the_steps_that_have_a_reward(tmp_path):
    root = make_run(tmp_path)
    for step, rewards in enumerate([(None,), (0.0, 0.5), (1.0, 1.0), (0.5, None), (None, None)]):
        add(
            root,
            f"step_{step:06d}.jsonl",
            *(record(f"{step}-{i}", reward=r, attempt=i) for i, r in enumerate(rewards)),
        )
    (change,) = open_index(root, tmp_path / "cache").task_changes(limit=5)
    assert (change.first.step, change.last.step, change.change) == (1, 3, 0.25)


def test_a_task_that_was_validated_twice_is_told_by_its_validations(tmp_path):
    root = make_run(tmp_path)
    for name, reward in (("step_000001", 0.0), ("step_000002", 1.0)):
        add(root, f"{name}.jsonl", record(name, reward=reward))
        add(root, f"{name.replace('step', 'validation')}.jsonl", record(f"v{name}", reward=0.5))
    (change,) = open_index(root, tmp_path / "cache").task_changes(limit=5)
    assert (change.is_validation, change.change) == (True, 0.0)


def test_a_change_that_is_no_number_counts_as_none(tmp_path):
    root = make_run(tmp_path)
    for step in (1, 2):
        huge = [record(f"{step}-{i}", reward=1e308, attempt=i) for i in range(2)]
        add(root, f"step_{step:06d}.jsonl", *huge, record(f"{step}", task_id="u", reward=step))
    index = open_index(root, tmp_path / "cache")
    assert index.task_changes(limit=1)[0].task_id == "u"


@pytest.mark.parametrize(
    ("rewards", "spread"),
    [
        ((0.1, 0.1, 0.1), 0.0),
        ((0.0, 1.0), 0.5),
        ((2.0, 4.0, 9.0), 2.94392),
        ((-1e200, 1e200), 1e200),
    ],
)
def test_the_spread_of_a_group_is_its_standard_deviation_and_0_where_all_are_equal(
    tmp_path, rewards, spread
):
    root = make_run(tmp_path)
    attempts = [record(f"e{i}", reward=r, attempt=i) for i, r in enumerate(rewards)]
    add(root, "step_000001.jsonl", *attempts)
    (group,) = open_index(root, tmp_path / "cache").groups(1, False)
    assert group.spread == (pytest.approx(spread) if spread else 0.0)


def test_failed_episodes_are_found_without_looking_at_the_others(tmp_path):
    root = make_run(tmp_path)
    add(root, "step_000001.jsonl", record("a"), record("b", reward=None))
    open_index(root, tmp_path / "cache").close()
    connection = sqlite3.connect(_cache_file(tmp_path / "cache"))
    wanted = filter_of(EpisodeQuery(outcome="failed"))
    sql = f"EXPLAIN QUERY PLAN SELECT count(*) FROM episodes e WHERE {wanted.sql}"
    plan = [detail for *_, detail in connection.execute(sql, wanted.values)]
    connection.close()
    assert len(plan) == 1 and "of_failed" in plan[0]


def test_a_run_that_nobody_wrote_to_is_looked_at_once(tmp_path):
    root = make_run(tmp_path)
    add(root, "step_000001.jsonl", *some("a", "b"))
    cache = CountedReads(root, tmp_path / "cache")
    indexer = Indexer(root, cache, max_line_bytes=1000)
    first = indexer.refresh(step=None, is_validation=None, seconds=None)
    cache.num_reads = 0
    assert indexer.refresh(step=None, is_validation=None, seconds=None) == first
    assert first.is_whole and cache.num_reads == 1


_names = st.sampled_from(["solver", 'a"b', "a", "solver2", "back\\slash"])
_entries = st.lists(
    st.builds(
        dict,
        task_id=st.sampled_from(["t0", "t1"]),
        reward=st.sampled_from([None, 0.0, 0.5, 1.0]),
        agent=_names,
        tool=st.none() | _names,
        said=st.tuples(st.just("q"), st.text("ab", max_size=6)),
        madness=st.sampled_from([None, "repeats"]),
    ),
    max_size=12,
)
_queries = st.builds(
    EpisodeQuery,
    step=st.sampled_from([None, None, 1, 2]),
    is_validation=st.sampled_from([None, None, True, False]),
    task_id=st.sampled_from([None, None, "t0"]),
    min_reward=st.sampled_from([None, None, 0.5]),
    max_reward=st.sampled_from([None, None, 0.5]),
    outcome=st.sampled_from([None, "solved", "unsolved", "failed"]),
    agent=st.none() | _names,
    tool=st.none() | _names,
    madness=st.sampled_from([None, None, True, False]),
    min_tokens=st.sampled_from([None, None, 2]),
    max_tokens=st.sampled_from([None, None, 4]),
    problem=st.sampled_from([None, False]),
    order=st.sampled_from(ORDERS),
)


def _is_wanted(row: EpisodeRow, query: EpisodeQuery) -> bool:
    outcomes = {
        None: True,
        "solved": row.is_success is True,
        "unsolved": row.is_success is False,
        "failed": row.failure is not None,
    }
    reward = row.reward
    return (
        query.step in (None, row.step)
        and query.is_validation in (None, row.is_validation)
        and query.task_id in (None, row.task_id)
        and (query.min_reward is None or (reward is not None and reward >= query.min_reward))
        and (query.max_reward is None or (reward is not None and reward <= query.max_reward))
        and outcomes[query.outcome]
        and (query.agent is None or query.agent in row.agents)
        and (query.tool is None or query.tool in row.tools)
        and query.madness in (None, row.madness is not None)
        and (query.min_tokens is None or row.num_sampled_tokens >= query.min_tokens)
        and (query.max_tokens is None or row.num_sampled_tokens <= query.max_tokens)
    )


def _sorted(rows: list[EpisodeRow], order: str) -> list[EpisodeRow]:
    keys = {
        "step": lambda row: (),
        "newest": lambda row: (-row.step, -row.is_validation),
        "lowest_reward": lambda row: (row.reward is None, row.reward or 0),
        "highest_reward": lambda row: (row.reward is None, -(row.reward or 0)),
        "longest": lambda row: (-row.num_sampled_tokens,),
        "shortest": lambda row: (row.num_sampled_tokens,),
        "slowest": lambda row: (-(row.seconds or 0),),
    }

    def place(row: EpisodeRow) -> tuple:
        return row.step, row.is_validation, row.task_id, row.attempt, row.offset

    return sorted(rows, key=lambda row: (*keys[order](row), *place(row)))


@given(_entries, _queries, st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_filters_orders_pages_and_neighbours_are_those_of_a_plain_list(
    tmp_path_factory, entries, query, limit
):
    root = make_run(tmp_path_factory.mktemp("run"))
    drawn = random.Random(len(entries))
    for number, entry in enumerate(entries):
        file = drawn.choice(["step_000001.jsonl", "step_000002.jsonl", "validation_000002.jsonl"])
        add(root, file, record(f"e{number}", attempt=number % 3, **entry))
    index = open_index(root, root / "cache")
    everything = index.rows(EVERYTHING, limit=100).rows
    assert len(everything) == len(entries)
    expected = _sorted([row for row in everything if _is_wanted(row, query)], query.order)
    pages = [index.rows(query, limit=limit, offset=at) for at in range(0, 12, limit)]
    assert [row for page in pages for row in page.rows] == expected
    assert all(page.total == len(expected) for page in pages)
    beside = [index.neighbours(row.episode_id, query) for row in expected]
    names = [row.episode_id for row in expected]
    assert [pair.previous_id for pair in beside] == [None, *names][: len(names)]
    assert [pair.next_id for pair in beside] == [*names[1:], None][: len(names)]
    index.close()
