"""What CI runs: `.ci/run` with a stand-in for make, in a scratch folder."""

import os
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.signals import signals_of_a_terminal

SCRIPT = Path(__file__).parent.parent / ".ci" / "run"
FILES = ("tests/test_a.py", "tests/test_b.py", "tests/test_c.py", "tests/deep/test_d.py")
MAKE = """#!/bin/bash
for target in "$@"; do
    if [[ "$target" == TESTS=* ]]; then echo ${target#TESTS=} >>files; continue; fi
    echo "begin $target $$" >>targets
    if [ "$target" = "$HANGS" ]; then sleep 60; fi
    if [ "$target" = "$FAILS" ]; then echo "1 failed in 0.01s"; exit 2; fi
    echo "end $target $$" >>targets
    echo "1 passed in 0.01s"
done
"""


def run(
    folder: Path, *, fails: str = "", hangs: str = ""
) -> tuple[int, list[str], list[list[str]]]:
    """Exit code, what it printed, and what make began and ended, in order."""
    (folder / ".ci").mkdir()
    shutil.copy(SCRIPT, folder / ".ci" / "run")
    for name in FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    programs = {"make": MAKE, "bwrap": "#!/bin/sh\n", "chromium": "#!/bin/sh\n"}
    for name, text in programs.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{folder}:{os.environ['PATH']}",
        "CHROMIUM": str(folder / "chromium"),
        "FAILS": fails,
        "HANGS": hangs,
    }
    with signals_of_a_terminal():
        done = subprocess.run(
            ["bash", str(folder / ".ci" / "run")],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
    lines = (folder / "targets").read_text().splitlines()
    return done.returncode, done.stdout.splitlines(), [line.split() for line in lines]


def test_every_kind_of_test_is_run_and_pytest_says_the_last_word(tmp_path: Path) -> None:
    code, printed, targets = run(tmp_path)
    assert code == 0
    assert printed[-1] == "1 passed in 0.01s"
    marks = pytest_marks() - {"gpu", "network"}
    ended = {name for what, name, _ in targets if what == "end"}
    assert {"lint", "types", "test", *(f"test-{mark}" for mark in marks)} <= ended


def test_every_file_of_tests_is_run_in_one_of_two_lanes(tmp_path: Path) -> None:
    run(tmp_path)
    halves = [line.split() for line in (tmp_path / "files").read_text().splitlines()]
    # A file that is named is read even where its folder says that its packages are missing.
    assert [named for named, *_ in halves] == ["tests", "tests"]
    left_out = [option.removeprefix("--ignore=") for _, *options in halves for option in options]
    assert sorted(map(len, halves)) == [3, 3]
    assert sorted(left_out) == sorted(FILES)
    tests = SCRIPT.parent.parent / "tests"
    assert {*tests.rglob("test_*.py")} == {*tests.glob("test_*.py"), *tests.glob("*/test_*.py")}


def test_at_most_three_lanes_run_at_once_and_none_installs_where_another_tests(
    tmp_path: Path,
) -> None:
    _, _, targets = run(tmp_path)
    lanes = {pid for _, _, pid in targets}
    places = {pid: [i for i, line in enumerate(targets) if line[2] == pid] for pid in lanes}
    for place in range(len(targets)):
        assert sum(min(own) <= place <= max(own) for own in places.values()) <= 3
    begins = {name: i for i, (what, name, _) in enumerate(targets) if what == "begin"}
    ends = {name: i for i, (what, name, _) in enumerate(targets) if what == "end"}
    # Its environment is that of the fast tests, with a browser's packages.
    assert ends["test"] < begins["test-browser"]
    for kind in ("verl", "trinity"):
        assert ends[f".venv-{kind}-cpu/made.stamp"] < begins[f"test-{kind}"]
    # Two clusters and fast tests are too much.
    assert ends["test"] < begins["test-ray"]


@pytest.mark.parametrize("fails", ["lint", "types", "test", "test-browser", "test-slow"])
def test_a_lane_that_fails_ends_the_run_and_what_still_runs(tmp_path: Path, fails: str) -> None:
    code, printed, targets = run(tmp_path, fails=fails, hangs="test-verl")
    assert code == 2
    assert printed[-1] == "1 failed in 0.01s"
    begun = {int(pid) for what, name, pid in targets if (what, name) == ("begin", "test-verl")}
    assert not any(Path(f"/proc/{pid}").exists() for pid in begun)


def pytest_marks() -> set[str]:
    """Those of `pyproject.toml`."""

    project = tomllib.loads((SCRIPT.parent.parent / "pyproject.toml").read_text())
    return {line.partition(":")[0] for line in project["tool"]["pytest"]["ini_options"]["markers"]}
