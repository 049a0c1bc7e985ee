"""Runs are found and read, whatever state they are in."""

import fcntl
import json
import os
import shutil
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from astuner.errors import NotFoundError, UnreadableError
from astuner.logview.reading.cache import cache_folder
from astuner.logview.reading.run_reader import RunReader
from astuner.logview.reading.run_status import ValidationPoint
from astuner.logview.reading.shelf import Shelf
from astuner.machine.regular_file import open_regular
from tests.viewer_runs import START, add, make_run, record


def reader(root: Path, cache: Path) -> RunReader:
    return RunReader(root, name="math/now", cache_dir=cache)


def write_lines(path: Path, *lines: dict) -> None:
    path.parent.mkdir(exist_ok=True)
    with path.open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


@contextmanager
def at_work(root: Path):
    """As a run is that holds the lock of its directory."""
    with (root / ".lock").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


STARTED = {
    "time": "2026-01-31T09:30:00.000Z",
    "event": "started",
    "backbone": "local",
    "model": "tiny",
}


def ended(code: int, error: dict | None = None) -> dict:
    return {
        "time": "2026-01-31T10:00:00.000Z",
        "event": "ended",
        "exit_code": code,
        "error": error,
    }


# Shelves


def names_on(*folders: Path, cache: Path) -> list[str]:
    return [run.name for run in Shelf(folders, cache_dir=cache).runs()]


def test_a_shelf_takes_a_run_an_experiment_and_a_folder_of_experiments(tmp_path):
    base = tmp_path / "records"
    root = make_run(base)
    make_run(base, "other")
    assert names_on(root, cache=tmp_path) == [f"math/{START}"]
    assert names_on(root.parent, cache=tmp_path) == [f"math/{START}"]
    assert sorted(names_on(base, cache=tmp_path)) == [f"math/{START}", f"other/{START}"]


def test_a_run_that_several_folders_hold_is_there_once(tmp_path):
    root = make_run(tmp_path / "records")
    assert names_on(root, root.parent, tmp_path / "records", cache=tmp_path) == [f"math/{START}"]


def test_runs_of_one_name_in_two_folders_are_told_apart(tmp_path):
    one, other = make_run(tmp_path / "a"), make_run(tmp_path / "b")
    shelf = Shelf([tmp_path / "a", tmp_path / "b"], cache_dir=tmp_path)
    assert shelf.run(f"math/{START}").root == one
    assert shelf.run(f"math/{START}~2").root == other


def test_the_newest_run_comes_first_and_new_ones_are_found(tmp_path):
    base = tmp_path / "records"
    make_run(base)
    shelf = Shelf([base], cache_dir=tmp_path)
    (first,) = shelf.runs()
    newer = make_run(base, start="2026-02-01_09-30-00")
    (newer / "started.json").write_text('{"number": 2, "started": "2026-02-01T09:30:00+00:00"}\n')
    assert [run.root for run in shelf.runs()] == [newer, first.root]
    assert shelf.runs()[1] is first


def test_links_are_no_runs(tmp_path):
    base = tmp_path / "records"
    root = make_run(base)
    (base / "math" / "latest").symlink_to(root.name)
    secret = make_run(tmp_path / "elsewhere", "secret")
    (base / "secret").symlink_to(secret.parent)
    (base / "math" / "stolen").symlink_to(secret)
    assert names_on(base, cache=tmp_path) == [f"math/{START}"]


def test_a_link_that_the_user_names_is_followed(tmp_path):
    root = make_run(tmp_path / "records")
    link = root.parent / "latest"
    link.symlink_to(root.name)
    assert names_on(link, cache=tmp_path) == [f"math/{START}"]


def test_odd_names_are_names(tmp_path):
    base = tmp_path / "records"
    name = 'a?b#c%2F "d" ..é'
    make_run(base, name)
    shelf = Shelf([base], cache_dir=tmp_path)
    assert shelf.run(f"{name}/{START}").experiment == name
    with pytest.raises(NotFoundError):
        shelf.run(f"../records/{name}/{START}")


def test_a_name_that_is_no_text_is_shown_and_found(tmp_path):
    base = tmp_path / "records"
    make_run(base, os.fsdecode(b"m\xff"))
    shelf = Shelf([base], cache_dir=tmp_path)
    (run,) = shelf.runs()
    assert (run.name, run.experiment) == (f"m\\udcff/{START}", "m\\udcff")
    assert shelf.run(run.name).state().status == "unknown"


def test_a_run_by_a_release_without_numbers_is_one(tmp_path):
    root = make_run(tmp_path / "records")
    (root / "started.json").unlink()
    (root / "config.yaml").write_text("astuner: {}\n")
    (root / "run.log").touch()
    (run,) = Shelf([tmp_path / "records"], cache_dir=tmp_path).runs()
    assert time.strftime("%Y-%m-%d_%H-%M-%S", time.localtime(run.started)) == START


def test_an_empty_folder_has_no_runs_yet(tmp_path):
    (tmp_path / "records").mkdir()
    assert names_on(tmp_path / "records", cache=tmp_path) == []


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(NotFoundError, match="nowhere: the folder cannot be read: No such file"):
        Shelf([tmp_path / "nowhere"], cache_dir=tmp_path)


def test_a_folder_of_something_else_is_refused_with_what_was_found(tmp_path):
    (tmp_path / "photo.jpg").touch()
    with pytest.raises(NotFoundError, match=r"it is no run and holds none.*found photo\.jpg"):
        Shelf([tmp_path], cache_dir=tmp_path)


def test_a_run_that_is_not_there_is_answered_with_those_that_are(tmp_path):
    make_run(tmp_path / "records")
    shelf = Shelf([tmp_path / "records"], cache_dir=tmp_path)
    with pytest.raises(NotFoundError, match=rf"no run 'math/x'.*found 1: math/{START}"):
        shelf.run("math/x")


def test_a_run_that_is_deleted_while_it_is_shown_is_gone(tmp_path):
    root = make_run(tmp_path / "records")
    write_lines(root / "metrics.jsonl", {"step": 1, "reward/mean": 0.5})
    shelf = Shelf([tmp_path / "records"], cache_dir=tmp_path / "cache")
    (run,) = shelf.runs()
    assert run.state().status != "gone"
    shutil.rmtree(root)
    assert shelf.runs() == []
    assert shelf.run(f"math/{START}").state().status == "gone"
    assert run.metrics().rows == [] and run.log_tail() == [] and run.config_files() == []


# How runs stand


@pytest.mark.parametrize(
    ("code", "error", "status", "line"),
    [
        (0, None, "done", "the last line"),
        (1, {"kind": "BackboneError", "message": "no room"}, "failed", "BackboneError: no room"),
        (2, {"kind": "ConfigError", "message": "bad"}, "failed", "ConfigError: bad"),
        (130, None, "interrupted", "ended by SIGINT"),
        (143, None, "interrupted", "ended by SIGTERM"),
        (255, None, "interrupted", "the last line"),
        (None, None, "failed", "the last line"),
    ],
)
def test_a_run_that_told_how_it_ended_is_believed(tmp_path, code, error, status, line):
    root = make_run(tmp_path)
    write_lines(root / "events.jsonl", STARTED, ended(code, error))
    (root / "run.log").write_text("2026-01-31 09:30:00,123 DEBUG astuner.console the last line\n")
    state = reader(root, tmp_path).state()
    assert (state.status, state.last_line) == (status, line)
    assert state.ended == 1769853600.0
    assert (state.backbone, state.model) == ("local", "tiny")


def test_a_run_at_work_is_running_and_one_that_said_nothing_more_was_killed(tmp_path):
    root = make_run(tmp_path)
    write_lines(root / "events.jsonl", STARTED)
    run = reader(root, tmp_path)
    with at_work(root):
        assert run.state().status == "running"
        assert run.state().ended is None
        assert run.state().seconds == pytest.approx(time.time() - run.started, abs=60)
    assert run.state().status == "killed"
    os.utime(root, (run.started + 5,) * 2)
    for path in root.iterdir():
        os.utime(path, (run.started + 5,) * 2)
    assert run.state().seconds == 5


def test_a_run_that_goes_on_after_its_end_is_judged_by_its_last_start(tmp_path):
    root = make_run(tmp_path)
    write_lines(root / "events.jsonl", STARTED, ended(1), {**STARTED, "is_resumed": True})
    run = reader(root, tmp_path)
    assert run.state().status == "killed"
    assert run.state().num_starts == 2
    write_lines(root / "events.jsonl", ended(0))
    assert run.state().status == "done"


def test_asking_how_a_run_stands_makes_no_files(tmp_path):
    root = make_run(tmp_path)
    before = sorted(root.rglob("*"))
    reader(root, tmp_path / "cache").state()
    assert sorted(root.rglob("*")) == before


_OF_STEP = "2026-01-31 09:30:00,123 DEBUG astuner.console step 7/25  reward 0.250  success 0.25"
_LOGS = {
    "done": [_OF_STEP, "2026-01-31 09:30:01,123 DEBUG astuner.console run directory  /a/b"],
    "failed": [
        _OF_STEP,
        "2026-01-31 09:30:01,123 DEBUG astuner.log run ended by BackboneError",
        "Traceback (most recent call last):",
        "astuner.errors.BackboneError: no room",
    ],
    "interrupted": [_OF_STEP, "2026-01-31 09:30:01,1 DEBUG astuner.log run ended by Quit"],
    "unknown": [_OF_STEP],
}


@pytest.mark.parametrize("status", _LOGS)
def test_a_run_without_events_is_known_by_the_end_of_its_log(tmp_path, status):
    root = make_run(tmp_path)
    (root / "run.log").write_text("\n".join(_LOGS[status]) + "\n")
    (root / "config.yaml").write_text("astuner:\n  backbone: verl\n  model:\n    path: a/b\n")
    state = reader(root, tmp_path).state()
    assert (state.status, state.num_steps) == (status, 25)
    assert (state.backbone, state.model) == ("verl", "a/b")
    if status == "failed":
        assert state.last_line == "astuner.errors.BackboneError: no room"


def test_a_log_that_machines_read_tells_the_same(tmp_path):
    root = make_run(tmp_path)
    told = {"message": "run ended by BackboneError", "error.message": "no room"}
    write_lines(root / "run.log", {"message": "step 3/9  reward"}, told)
    state = reader(root, tmp_path).state()
    assert (state.status, state.last_line, state.num_steps) == ("failed", "no room", 9)


def test_the_earlier_starts_of_a_log_do_not_count(tmp_path):
    root = make_run(tmp_path)
    again = "2026-01-31 10:30:00,123 DEBUG astuner.console astuner: backbone local, run directory x"
    (root / "run.log").write_text("\n".join([*_LOGS["failed"], again, _OF_STEP]) + "\n")
    assert reader(root, tmp_path).state().status == "unknown"


def test_how_far_a_run_is_and_how_it_went_comes_from_its_metrics(tmp_path):
    root = make_run(tmp_path)
    planned = {"time": "2026-01-31T09:30:00.000Z", "event": "planned", "num_steps": 10}
    write_lines(root / "events.jsonl", STARTED, planned)
    validation = {
        "validation/success_rate": 0.2,
        "validation/success_rate_low": 0.1,
        "validation/success_rate_high": 0.3,
        "validation/episodes": 88,
    }
    write_lines(root / "metrics.jsonl", {"step": 0, **validation})
    for step in range(1, 8):
        line = {"step": step, "reward/mean": step / 10, "step/seconds": 100 if step == 1 else 2}
        write_lines(root / "metrics.jsonl", line)
    write_lines(root / "metrics.jsonl", {"step": 8, "reward/mean": None, **validation})
    with at_work(root):
        state = reader(root, tmp_path).state()
    assert (state.step, state.num_steps, state.seconds_left) == (8, 10, 4.0)
    assert (state.reward_first, state.reward_last) == (0.1, 0.7)
    expected = ValidationPoint(step=0, rate=0.2, low=0.1, high=0.3, num_episodes=88)
    assert state.validation_first == expected
    assert state.validation_last is not None and state.validation_last.step == 8


def test_of_a_run_that_wrote_nothing_nothing_is_known(tmp_path):
    root = make_run(tmp_path)
    run = reader(root, tmp_path)
    state = run.state()
    assert (state.status, state.step, state.last_line) == ("unknown", None, None)
    assert run.metrics().names == () and run.findings() == [] and run.vocabulary() is None
    assert run.training(1, "e") == [] and run.index.refresh().is_whole


# Metrics and events


def test_metrics_take_any_names_and_values(tmp_path):
    root = make_run(tmp_path)
    (root / "metrics.jsonl").write_text(
        '{"step": 1, "time": "2026", "a/b": 1, "odd": NaN, "flag": true, "text": "x", "l": [1]}\n'
        '{"step": 2, "a/b": null, "odd": Infinity, "flag": "soon", "new": 1e3, "é": 2}\n'
        '{"step": 3, "a/b": 1' + "0" * 400 + "}\n"
    )
    metrics = reader(root, tmp_path).metrics()
    assert metrics.names == ("a/b", "odd", "flag", "new", "é")
    assert metrics.series("a/b") == [(1, 1.0), (2, None), (3, None)]
    assert metrics.series("odd") == [(1, None), (2, None)]
    assert metrics.series("flag") == [(1, 1.0), (2, None)]
    assert metrics.series("new") == [(2, 1000.0)] and metrics.series("none") == []
    assert metrics.rows[0]["text"] == "x"


def test_lines_that_are_no_metrics_are_said_and_passed_over(tmp_path):
    root = make_run(tmp_path)
    (root / "metrics.jsonl").write_text('{"step": 1}\n{torn}\n{"no": 1}\n[]\n{"step": 2}\n{"st')
    metrics = reader(root, tmp_path).metrics()
    assert metrics.steps == [1, 2]
    assert [problem.partition(":")[0] for problem in metrics.problems] == [
        "metrics.jsonl, line 2",
        "metrics.jsonl, line 4",
        "metrics.jsonl",
    ]


def test_a_step_is_a_count_that_browsers_can_hold(tmp_path):
    root = make_run(tmp_path)
    odd: list[Any] = [-1, 10**400, 2**53 + 1, 1.5, "2", None, True, [3]]
    write_lines(root / "metrics.jsonl", *({"step": step, "a": 1} for step in [*odd, 2**53]))
    write_lines(root / "events.jsonl", *({"event": "finding", "step": step} for step in odd))
    run = reader(root, tmp_path)
    assert run.metrics().steps == [2**53]
    assert run.metrics().problems == ["metrics.jsonl: 8 lines that name no step were passed over"]
    assert {found.step for found in run.findings()} == {None}


@pytest.mark.parametrize("planned", [pytest.param(10**400, id="huge"), 1e300, -7, "many", None])
def test_a_plan_that_no_run_could_have_is_not_known(tmp_path, planned):
    root = make_run(tmp_path)
    write_lines(root / "metrics.jsonl", {"step": 1, "step/seconds": 1e300})
    write_lines(root / "events.jsonl", STARTED, {"event": "planned", "num_steps": planned})
    with at_work(root):
        state = reader(root, tmp_path).state()
    assert (state.num_steps, state.seconds_left) == (None, None)


def test_a_log_that_tells_of_a_number_of_thousands_of_digits_is_read(tmp_path):
    root = make_run(tmp_path)
    (root / "run.log").write_text(f"2026-01-31 09:30:00 INFO a step 1/{'9' * 5000} \n")
    assert reader(root, tmp_path).state().num_steps is None


def test_of_lines_of_one_step_the_later_counts(tmp_path):
    root = make_run(tmp_path)
    lines = [{"step": 1, "a": 1}, {"step": 2, "a": 2}, {"step": 2, "a": 3}, {"step": 1, "a": 4}]
    write_lines(root / "metrics.jsonl", *lines)
    assert reader(root, tmp_path).metrics().series("a") == [(1, 4.0), (2, 3.0)]


def test_metrics_grow_and_are_read_again_where_their_file_was_replaced(tmp_path):
    root = make_run(tmp_path)
    run = reader(root, tmp_path)
    write_lines(root / "metrics.jsonl", {"step": 1}, {"step": 2})
    assert run.metrics().steps == [1, 2]
    assert run.metrics() is run.metrics()
    write_lines(root / "metrics.jsonl", {"step": 3})
    assert run.metrics().steps == [1, 2, 3]
    write_lines(root / "metrics.partial", {"step": 1})
    (root / "metrics.partial").replace(root / "metrics.jsonl")
    assert run.metrics().steps == [1]


def test_a_file_that_leads_out_of_the_run_is_not_read(tmp_path):
    root = make_run(tmp_path)
    secret = tmp_path / "secret"
    secret.write_text('{"step": 1, "secret": 1}\n')
    for name in ("metrics.jsonl", "run.log", "events.jsonl", "vocabulary.json", "config.yaml"):
        (root / name).symlink_to(secret)
    run = reader(root, tmp_path)
    assert run.metrics().rows == [] and run.events() == [] and run.log_tail() == []
    assert run.vocabulary() is None and run.config_files() == []
    with pytest.raises(NotFoundError):
        run.config_text()


def test_links_in_a_circle_are_no_files(tmp_path):
    root = make_run(tmp_path)
    (root / "metrics.jsonl").symlink_to(root / "events.jsonl")
    (root / "events.jsonl").symlink_to(root / "metrics.jsonl")
    assert reader(root, tmp_path).metrics().rows == []


def test_what_detectors_found_is_read_from_the_events(tmp_path):
    root = make_run(tmp_path)
    finding = {"event": "finding", "step": 4, "detector": "flat", "message": "no", "stops": True}
    write_lines(root / "events.jsonl", STARTED, finding, {"event": "finding", "step": "x"})
    first, second = reader(root, tmp_path).findings()
    assert (first.step, first.detector, first.message, first.stops) == (4, "flat", "no", True)
    assert (second.step, second.stops) == (None, False)


# Configurations, vocabulary, training, log


def test_every_start_has_its_configuration(tmp_path):
    root = make_run(tmp_path)
    for number in (1, 2, 10):
        name = "config.yaml" if number == 1 else f"config_{number}.yaml"
        (root / name).write_text(f"astuner:\n  model: {{path: m{number}}}\n  empty: {{}}\n")
    run = reader(root, tmp_path)
    assert [path.name for path in run.config_files()] == [
        "config.yaml",
        "config_2.yaml",
        "config_10.yaml",
    ]
    assert run.config() == {"astuner.model.path": "m10", "astuner.empty": {}}
    assert run.config(1)["astuner.model.path"] == "m1"
    with pytest.raises(NotFoundError, match="no start 4; found 3"):
        run.config_text(4)


@pytest.mark.parametrize("text", ["a: [", "just text", "a: &a [*a]", "\x00"])
def test_a_configuration_that_is_none_is_said(tmp_path, text):
    root = make_run(tmp_path)
    (root / "config.yaml").write_text(text)
    run = reader(root, tmp_path)
    assert run.config_text() == text
    with pytest.raises(UnreadableError, match=r"config\.yaml"):
        run.config()


def test_tokens_are_shown_as_text_or_bytes(tmp_path):
    root = make_run(tmp_path)
    tokens = ["<|end|>", " a", {"bytes": "e2 96"}]
    (root / "vocabulary.json").write_text(
        json.dumps({"format": 1, "tokens": tokens, "special": [0]})
    )
    run = reader(root, tmp_path)
    vocabulary = run.vocabulary()
    assert vocabulary is not None and run.vocabulary() is vocabulary
    pieces = vocabulary.pieces([0, 1, 2, 3, -1])
    assert [piece.text for piece in pieces] == ["<|end|>", " a", "e2 96", "<3>", "<-1>"]
    assert [piece.is_special for piece in pieces] == [True, False, False, False, False]
    assert [piece.is_partial for piece in pieces] == [False, False, True, False, False]


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"format": 2}', '{"format": 1, "tokens": [3], "special": []}']
)
def test_a_vocabulary_of_another_form_is_none(tmp_path, content):
    root = make_run(tmp_path)
    (root / "vocabulary.json").write_text(content)
    assert reader(root, tmp_path).vocabulary() is None


def sample(episode_id: str, sequence: int, **other) -> dict:
    return {
        "format": 1,
        "step": 3,
        "episode_id": episode_id,
        "sequence": sequence,
        "advantage": 0.5,
        "weight": None,
        "temperature": 1.0,
        "update": 0,
        "weight_version": 2,
        "logprobs": [-0.5, -1],
        **other,
    }


def test_what_the_trainer_computed_is_found_by_episode(tmp_path):
    root = make_run(tmp_path)
    path = root / "training" / "step_000003.jsonl"
    odd = 'a"\\é'
    write_lines(path, sample("e1", 1), sample("e1", 0), sample("e10", 0), sample(odd, 0))
    write_lines(path, {"format": 2, "episode_id": "e1"}, sample("e1", 0, advantage=-1))
    with path.open("a") as file:
        file.write('{"format": 1, "episode_id": "e1"')
    run = reader(root, tmp_path)
    first, second = run.training(3, "e1")
    assert (first.sequence, first.advantage, first.logprobs) == (0, -1.0, (-0.5, -1.0))
    assert (second.sequence, second.reference_logprobs, second.weight) == (1, None, None)
    assert len(run.training(3, odd)) == 1
    assert run.training(4, "e1") == []
    assert {name: len(found) for name, found in run.trainings(3, ["e1", "x"]).items()} == {
        "e1": 2,
        "x": 0,
    }


def test_the_end_of_a_log_is_read_without_its_beginning(tmp_path):
    root = make_run(tmp_path)
    lines = [f"line {number} \ud83d".encode("utf-8", "replace") for number in range(50_000)]
    (root / "run.log").write_bytes(b"\n".join(lines))
    assert reader(root, tmp_path).log_tail(2) == ["line 49998 ?", "line 49999 ?"]
    assert reader(root, tmp_path).log_tail(0) == []


def test_an_episode_is_read_whole_from_the_shelf(tmp_path):
    root = make_run(tmp_path / "records")
    add(root, "step_000001.jsonl", record("step1-0-0", said=("q", "42")))
    (run,) = Shelf([tmp_path / "records"], cache_dir=tmp_path / "cache").runs()
    row = run.index.locate("step1-0-0")
    assert row is not None
    assert run.index.read(row).episode.calls[0].reply["content"] == "42"


def test_caches_lie_where_the_platform_wants_them(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    root = make_run(tmp_path / "records")
    add(root, "step_000001.jsonl", record())
    (run,) = Shelf([tmp_path / "records"]).runs()
    run.index.refresh()
    run.index.close()
    assert len(os.listdir(tmp_path / "caches" / "astuner" / "logview")) == 1


def test_where_there_is_no_home_caches_lie_in_the_folder_for_temporary_files(tmp_path, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", "no-path")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert cache_folder() == tmp_path / f"astuner_{os.getuid()}" / "astuner" / "logview"


def test_where_nothing_can_be_written_the_index_lives_in_memory(tmp_path, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", "no-path")
    (tmp_path / "a-file").touch()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "a-file"))
    root = make_run(tmp_path / "runs")
    add(root, "step_000001.jsonl", record("a"))
    index = Shelf([tmp_path / "runs"]).runs()[0].index
    assert index.refresh(seconds=None).is_whole and index.locate("a") is not None


def test_a_trained_sample_keeps_the_numbers_that_are_known(tmp_path):
    root = make_run(tmp_path)
    line = {"format": 1, "step": 1, "episode_id": "a", "sequence": 0, "advantage": float("nan")}
    write_lines(root / "training" / "step_000001.jsonl", line | {"logprobs": [-0.5, None]})
    (sample,) = reader(root, tmp_path).training(1, "a")
    assert (sample.logprobs, sample.advantage) == ((-0.5, None), None)


@pytest.mark.parametrize("num_tokens", [0, -1, 2**70])
def test_an_advantage_of_no_number_of_tokens_is_of_no_sample(tmp_path, num_tokens):
    root = make_run(tmp_path)
    runs = [[3, float("nan")], [2, 0.5]]
    path = root / "training" / "step_000003.jsonl"
    write_lines(path, sample("e", 0, call_advantages=[[num_tokens, 0.5], *runs]))
    assert reader(root, tmp_path).training(3, "e") == []
    write_lines(path, sample("e", 0, call_advantages=runs))
    (found,) = reader(root, tmp_path).training(3, "e")
    assert found.runs == ((2, 0.5),)


# What stands where a file should be


FILES = (
    *(".lock", "started.json", "config.yaml", "run.log", "metrics.jsonl", "events.jsonl"),
    *("vocabulary.json", "episodes/step_000001.jsonl", "training/step_000001.jsonl"),
)


def read_all(run: RunReader) -> None:
    """Whatever pages ask of a run; what cannot be read says so."""
    run.state(), run.vocabulary(), run.training(1, "a"), run.log_tail()
    run.index.refresh(seconds=None)
    row = run.index.locate("a")
    for ask in (run.config, lambda: row and run.index.read(row)):
        with suppress(NotFoundError, UnreadableError):
            ask()


def whole_run(folder: Path) -> Path:
    root = make_run(folder)
    write_lines(root / "metrics.jsonl", {"step": 1})
    write_lines(root / "events.jsonl", STARTED)
    write_lines(root / "training" / "step_000001.jsonl", {"format": 1})
    for name in ("config.yaml", "run.log", "vocabulary.json", ".lock"):
        (root / name).write_text("{}\n")
    add(root, "step_000001.jsonl", record("a"))
    return root


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_what_is_no_file_is_not_waited_for_and_not_read(tmp_path, name, make):
    root = whole_run(tmp_path)
    (root / name).unlink()
    make(root / name)
    run = reader(root, tmp_path / "cache")
    reading = threading.Thread(target=read_all, args=[run], daemon=True)
    reading.start()
    reading.join(60)
    assert not reading.is_alive()


def test_a_pipe_that_takes_the_place_of_a_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="no regular file"):
        open_regular(tmp_path / "pipe")
    (tmp_path / "file").write_text("text")
    with open_regular(tmp_path / "file") as file:
        assert file.read() == b"text"


def test_a_model_that_is_not_set_is_not_known(tmp_path):
    root = make_run(tmp_path)
    (root / "config.yaml").write_text("astuner:\n  backbone: debug\n  model:\n    path: null\n")
    state = reader(root, tmp_path).state()
    assert (state.backbone, state.model) == ("debug", None)
