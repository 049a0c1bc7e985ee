"""Episodes on their way to the disk, in a thread of their own."""

import asyncio
import gc
import json
import threading
from dataclasses import replace
from pathlib import Path

import pytest

import astuner.backbone.episode_writer as module
from astuner.backbone.episode_writer import EpisodeWriter
from astuner.errors import AstunerError
from astuner.run_dir import RunDir, append_lines, read_json_lines
from astuner.trajectory.record import calls_to_record, episode_from_record
from tests.test_roles import make_episode


def names_in(path):
    return [record["episode_id"] for record in read_json_lines(path)]


def test_what_is_flushed_is_on_the_disk_in_the_order_in_which_it_came(tmp_path):
    run_dir = RunDir(root=tmp_path)
    with EpisodeWriter(run_dir) as writer:
        for attempt in range(5):
            writer.write(make_episode(attempt, 1.0))
        writer.write(replace(make_episode(9, 1.0), is_validation=True, step=3))
        asyncio.run(writer.flush())
        assert names_in(run_dir.episodes_file(1, "train")) == [f"t-{i}" for i in range(5)]
        assert names_in(run_dir.episodes_file(3, "validation")) == ["t-9"]


def test_what_is_not_flushed_is_written_before_the_end(tmp_path):
    run_dir = RunDir(root=tmp_path)
    with pytest.raises(KeyboardInterrupt), EpisodeWriter(run_dir) as writer:
        writer.write(make_episode(0, 1.0))
        raise KeyboardInterrupt
    assert names_in(run_dir.episodes_file(1, "train")) == ["t-0"]


def test_an_episode_is_recorded_as_it_was_when_it_was_handed_over(tmp_path):
    run_dir = RunDir(root=tmp_path)
    episode = make_episode(0, 1.0)
    with EpisodeWriter(run_dir) as writer:
        writer.write(episode)
        episode.metadata["late"] = True
    (record,) = read_json_lines(run_dir.episodes_file(1, "train"))
    assert episode_from_record(record).metadata == {}


def test_calls_that_another_process_encoded_stand_in_the_record_as_they_are(tmp_path):
    run_dir = RunDir(root=tmp_path)
    episode = make_episode(0, 1.0)
    assert episode.calls and episode.sequences
    encoded = json.dumps(calls_to_record(episode)).encode()[1:-1]
    with EpisodeWriter(run_dir) as writer:
        writer.write(episode)
        writer.write(replace(episode, encoded_calls=encoded))
        writer.write(replace(episode, encoded_calls=encoded.replace(b"stop", b"length")))
    one, other, third = read_json_lines(run_dir.episodes_file(1, "train"))
    assert one == other and episode_from_record(other) == episode
    assert third["calls"][0]["finish_reason"] == "length"  # it is not made twice


def test_no_disk_holds_up_the_event_loop(tmp_path, monkeypatch):
    """The loop goes on while a line waits for its disk."""
    disk = threading.Event()

    def slow(path, lines):
        assert disk.wait(timeout=60)
        append_lines(path, lines)

    monkeypatch.setattr(module, "append_lines", slow)

    async def go(writer):
        writer.write(make_episode(0, 1.0))
        await asyncio.sleep(0)
        disk.set()
        await writer.flush()

    run_dir = RunDir(root=tmp_path)
    with EpisodeWriter(run_dir) as writer:
        asyncio.run(go(writer))
    assert names_in(run_dir.episodes_file(1, "train")) == ["t-0"]


def test_lines_that_come_while_the_disk_is_waited_for_are_written_together(tmp_path, monkeypatch):
    run_dir, taken, disk = RunDir(root=tmp_path), threading.Event(), threading.Event()
    written = []

    def slow(path, lines):
        taken.set()
        assert disk.wait(timeout=60)
        written.append((path, len(lines)))
        append_lines(path, lines)

    monkeypatch.setattr(module, "append_lines", slow)
    with EpisodeWriter(run_dir) as writer:
        writer.write(make_episode(0, 1.0))
        assert taken.wait(timeout=60)
        for attempt in (1, 2):
            writer.write(make_episode(attempt, 1.0))
        writer.write(replace(make_episode(9, 1.0), is_validation=True))
        writer.write(make_episode(3, 1.0))
        disk.set()
    train, validation = (run_dir.episodes_file(1, kind) for kind in ("train", "validation"))
    assert written == [(train, 1), (train, 2), (validation, 1), (train, 1)]
    assert names_in(train) == ["t-0", "t-1", "t-2", "t-3"]
    assert names_in(validation) == ["t-9"]


def test_a_file_that_refuses_keeps_no_line_of_another_back(tmp_path, monkeypatch):
    run_dir, taken, disk = RunDir(root=tmp_path), threading.Event(), threading.Event()
    train, validation = (run_dir.episodes_file(1, kind) for kind in ("train", "validation"))

    def refuse(path, lines):
        taken.set()
        assert disk.wait(timeout=60)
        if path == train:
            raise AstunerError("No space left")
        append_lines(path, lines)

    monkeypatch.setattr(module, "append_lines", refuse)
    with pytest.raises(AstunerError, match="No space left"), EpisodeWriter(run_dir) as writer:
        writer.write(replace(make_episode(0, 1.0), is_validation=True))
        assert taken.wait(timeout=60)
        writer.write(make_episode(1, 1.0))
        writer.write(replace(make_episode(2, 1.0), is_validation=True))
        disk.set()
    assert names_in(validation) == ["t-0", "t-2"]


def test_what_is_flushed_is_on_the_disk_although_the_thread_was_once_not_asked(
    tmp_path, monkeypatch
):
    run_dir = RunDir(root=tmp_path)
    with EpisodeWriter(run_dir) as writer:
        with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="new thread"):

            def refuse(*_):
                raise RuntimeError("can't start new thread")

            patch.setattr(writer._thread, "submit", refuse)
            writer.write(make_episode(0, 1.0))
        writer.write(make_episode(1, 1.0))
        asyncio.run(writer.flush())
        assert names_in(run_dir.episodes_file(1, "train")) == ["t-0", "t-1"]


@pytest.mark.parametrize("way", ["flush", "next", "end"])
def test_what_the_file_system_refuses_is_told(tmp_path, way):
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    run_dir = RunDir(root=tmp_path)
    run_dir.episodes_dir.mkdir()
    run_dir.episodes_file(1, "train").symlink_to("/dev/full")
    with pytest.raises(AstunerError, match="No space left"), EpisodeWriter(run_dir) as writer:
        writer.write(make_episode(0, 1.0))
        if way == "flush":
            asyncio.run(writer.flush())
        if way == "next":
            writer._pending[0].exception()  # once it is known
            writer.write(make_episode(1, 1.0))


@pytest.mark.parametrize("is_cancelled", [False, True])
def test_of_many_lines_that_are_refused_one_is_told_and_once(
    tmp_path, monkeypatch, caplog, is_cancelled
):
    """And none by asyncio, as an error that nobody looked at."""
    refusing = threading.Event()

    def refuse(path, lines):
        assert refusing.wait(timeout=60)
        raise AstunerError("No space left")

    monkeypatch.setattr(module, "append_lines", refuse)

    async def go(writer):
        for attempt in range(5):
            writer.write(make_episode(attempt, 1.0))
        flushing = asyncio.ensure_future(writer.flush())
        await asyncio.sleep(0)
        if is_cancelled:
            flushing.cancel()
            await asyncio.wait({flushing})
            assert flushing.cancelled()
            flushing = asyncio.ensure_future(writer.flush())
        refusing.set()
        await flushing

    with (
        pytest.raises(AstunerError, match="No space left"),
        EpisodeWriter(RunDir(root=tmp_path)) as it,
    ):
        asyncio.run(go(it))
    gc.collect()
    assert caplog.text == ""


def test_a_flush_that_is_cancelled_takes_no_line_back(tmp_path, monkeypatch):
    run_dir, disk = RunDir(root=tmp_path), threading.Event()

    def slow(path, lines):
        assert disk.wait(timeout=60)
        append_lines(path, lines)

    monkeypatch.setattr(module, "append_lines", slow)

    async def go(writer):
        for attempt in range(3):
            writer.write(make_episode(attempt, 1.0))
        flushing = asyncio.ensure_future(writer.flush())
        await asyncio.sleep(0)
        flushing.cancel()
        await asyncio.wait({flushing})

    with EpisodeWriter(run_dir) as writer:
        asyncio.run(go(writer))
        disk.set()
    assert names_in(run_dir.episodes_file(1, "train")) == ["t-0", "t-1", "t-2"]
