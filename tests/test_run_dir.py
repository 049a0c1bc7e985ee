"""The run directory's paths and the jsonl files that survive a kill."""

import fcntl
import json
import logging
import math
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from astuner.errors import AstunerError, BackboneError, ConfigError
from astuner.run_dir import RunDir, append_json_line, append_json_lines, read_json_lines


def test_runs_of_the_same_second_get_folders_of_their_own(tmp_path: Path) -> None:
    runs = [RunDir.create(tmp_path, "math") for _ in range(3)]
    assert len({run.root for run in runs}) == 3
    assert all(run.root.is_dir() and run.root.parent == tmp_path / "math" for run in runs)


def test_latest_points_to_the_newest_run_and_survives_a_move(tmp_path: Path) -> None:
    RunDir.create(tmp_path / "a", "math")
    newest = RunDir.create(tmp_path / "a", "math")
    (tmp_path / "a").rename(tmp_path / "b")
    found = RunDir.latest(tmp_path / "b", "math")
    assert found is not None and found.root.name == newest.root.name


def test_latest_is_read_from_a_text_file_where_links_are_not_possible(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path, "math")
    link = tmp_path / "math" / "latest"
    link.unlink()
    link.write_text(f"{run.root.name}\n")
    assert RunDir.latest(tmp_path, "math") == run


def test_latest_stays_at_the_run_that_trains(tmp_path: Path) -> None:
    """Until there is one, it leads to whatever is newest, as a first debug run."""
    RunDir.create(tmp_path, "math", is_latest=False, kind="debug")
    evaluated = RunDir.create(tmp_path, "math", is_latest=False)
    assert RunDir.latest(tmp_path, "math") == evaluated
    trained = RunDir.create(tmp_path, "math")
    RunDir.create(tmp_path, "math", is_latest=False, kind="debug")
    assert RunDir.latest(tmp_path, "math") == trained
    runs = RunDir.all(tmp_path, "math")
    assert [run.number for run in runs] == [1, 2, 3, 4]
    assert [run.kind for run in runs] == ["debug", "evaluation", "training", "debug"]


def test_latest_stays_at_a_run_of_a_release_that_told_no_kinds(tmp_path: Path) -> None:
    old = RunDir.create(tmp_path, "math")
    (old.root / "started.json").write_text('{"number": 1}\n')
    RunDir.create(tmp_path, "math", is_latest=False)
    assert RunDir.latest(tmp_path, "math") == old and old.kind is None


def test_there_is_no_latest_run_before_the_first(tmp_path: Path) -> None:
    assert RunDir.latest(tmp_path, "math") is None


def test_the_paths_of_a_run_are_the_documented_ones() -> None:
    run = RunDir(root=Path("r"))
    assert run.config_file == Path("r/config.yaml")
    assert run.log_file == Path("r/run.log")
    assert run.metrics_file == Path("r/metrics.jsonl")
    assert run.episodes_file(3, "train") == Path("r/episodes/step_000003.jsonl")
    assert run.episodes_file(0, "validation") == Path("r/episodes/validation_000000.jsonl")
    assert run.training_file(3) == Path("r/training/step_000003.jsonl")
    assert run.events_file == Path("r/events.jsonl")
    assert run.vocabulary_file == Path("r/vocabulary.json")
    assert run.checkpoint_dir(20) == Path("r/checkpoints/step_20")


def test_the_latest_checkpoint_has_the_highest_step(tmp_path: Path) -> None:
    run = RunDir(root=tmp_path)
    assert run.latest_checkpoint() is None
    for name in ("step_9", "step_10", ".step_11.123.partial"):
        (run.checkpoints_dir / name).mkdir(parents=True)
    assert run.latest_checkpoint() == run.checkpoint_dir(10)


def test_what_is_appended_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "episodes" / "step_000000.jsonl"
    records = [{"text": "两行\nand \u2028 more"}, {"text": "\udc80"}, {"n": [1, 2.5, None, True]}]
    append_json_line(path, records[0])
    append_json_lines(path, records[1:])
    assert list(read_json_lines(path)) == records


@pytest.mark.parametrize("size", [1, 70_000, 200_000])
def test_a_torn_last_line_is_skipped_and_later_cut_off(tmp_path: Path, size: int) -> None:
    path = tmp_path / "metrics.jsonl"
    append_json_line(path, {"step": 0})
    with path.open("ab") as file:
        file.write(b"{" + b"x" * size)
    assert list(read_json_lines(path)) == [{"step": 0}]
    append_json_line(path, {"step": 1})
    assert list(read_json_lines(path)) == [{"step": 0}, {"step": 1}]


def test_a_file_that_is_one_torn_line_starts_again(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"st')
    append_json_line(path, {"step": 0})
    assert list(read_json_lines(path)) == [{"step": 0}]


def test_every_prefix_of_a_file_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    append_json_lines(path, [{"step": step, "text": "é"} for step in range(3)])
    data = path.read_bytes()
    for size in range(len(data) + 1):
        path.write_bytes(data[:size])
        assert len(list(read_json_lines(path))) == data[:size].count(b"\n")


def test_damage_in_the_middle_names_the_file_and_the_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 0}\n{"st\n{"step": 2}\n')
    with pytest.raises(AstunerError, match=r"metrics\.jsonl:2: the line is not JSON"):
        list(read_json_lines(path))
    path.write_text("[1]\n")
    with pytest.raises(AstunerError, match=r"metrics\.jsonl:1: expected an object, found list"):
        list(read_json_lines(path))


def test_numbers_that_json_does_not_know_become_null_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "metrics.jsonl"
    with caplog.at_level(logging.WARNING):
        append_json_line(path, {"train": {"loss": math.nan}, "kl": [1.0, math.inf]})
    assert json.loads(path.read_text()) == {"train": {"loss": None}, "kl": [1.0, None]}
    assert "train.loss" in caplog.text and "kl[1]" in caplog.text


def test_a_value_that_is_no_json_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    append_json_line(path, {"step": 0})
    with pytest.raises(TypeError):
        append_json_lines(path, [{"step": 1}, {"step": object()}])
    assert list(read_json_lines(path)) == [{"step": 0}]


def test_a_full_disk_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    file = tmp_path / "metrics.jsonl"
    file.symlink_to(full)
    with pytest.raises(AstunerError, match=r"metrics\.jsonl: No space left .* MB are free"):
        append_json_line(file, {"step": 1})


def test_a_folder_that_cannot_be_made_is_a_wrong_setting(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"file/math cannot be made: .*astuner\.experiment_dir"):
        RunDir.create(tmp_path / "file", "math")


def test_runs_are_in_the_order_of_their_numbers_not_of_their_names(tmp_path: Path) -> None:
    first, second = (RunDir.create(tmp_path, "math") for _ in range(2))
    ahead = first.root.rename(first.root.with_name("2099-01-01_00-00-00"))
    unnumbered = RunDir(root=tmp_path / "math" / "2098-01-01_00-00-00_2")
    unnumbered.root.mkdir()
    (tmp_path / "math" / "2098-01-01_00-00-00_10").mkdir()
    names = [run.root.name for run in RunDir.all(tmp_path, "math")]
    earlier = [unnumbered.root.name, "2098-01-01_00-00-00_10"]
    assert names == [*earlier, ahead.name, second.root.name]
    assert [run.number for run in RunDir.all(tmp_path, "math")] == [0, 0, 1, 2]
    third = RunDir.create(tmp_path, "math")
    assert third.number == 3


def test_a_number_is_not_given_again_after_runs_of_it_were_deleted(tmp_path: Path) -> None:
    first, second = (RunDir.create(tmp_path, "math") for _ in range(2))
    shutil.rmtree(first.root)
    assert RunDir.create(tmp_path, "math").number == second.number + 1


@pytest.mark.parametrize("text", ["", "null\n", "[]\n", '{"number": "x"}\n', '{"number": 5'])
def test_a_damaged_number_is_none(tmp_path: Path, text: str) -> None:
    run = RunDir.create(tmp_path, "math")
    (run.root / "started.json").write_text(text)
    assert run.number == 0


def test_parallel_starts_get_numbers_of_their_own(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: RunDir.create(tmp_path, "math"), range(24)))
    assert [run.number for run in RunDir.all(tmp_path, "math")] == list(range(1, 25))


def test_a_link_to_the_best_that_cannot_be_written_is_told_and_ends_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = RunDir(root=tmp_path)
    (run.checkpoints_dir / "best" / "mine").mkdir(parents=True)
    run.checkpoint_dir(3).mkdir()
    run.point_best_to(run.checkpoint_dir(3))
    assert "does not lead to step_3, the best checkpoint" in caplog.text
    assert sorted(path.name for path in run.checkpoints_dir.iterdir()) == ["best", "step_3"]


def test_a_run_directory_that_is_gone_is_said(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path, "math")
    run.check_is_there()
    run.root.rename(tmp_path / "moved")
    with pytest.raises(BackboneError, match="is gone: it was deleted or moved"):
        run.check_is_there()


def test_one_who_looks_whether_a_run_is_at_work_does_not_keep_it_from_its_work(
    tmp_path: Path,
) -> None:
    run = RunDir.create(tmp_path, "math")
    lock = run.root / ".lock"
    lock.touch()
    with lock.open("rb") as looker, ThreadPoolExecutor() as pool:
        fcntl.flock(looker, fcntl.LOCK_SH)
        pool.submit(lambda: (time.sleep(0.005), fcntl.flock(looker, fcntl.LOCK_UN)))
        with run.in_use():
            assert run.worker() == "it is at work"
