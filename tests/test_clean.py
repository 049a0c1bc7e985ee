"""`astuner clean`: what it shows, what it deletes, and what it never touches."""

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from astuner.cli import main
from astuner.models.manifest import STATE_NAME, has_training_state, write_json, write_manifest
from astuner.run_dir import RunDir, append_json_line

BASE = Path("launcher_record")
DAY = 24 * 3600


@pytest.fixture(autouse=True)
def inside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def make_run(
    name: str,
    *,
    model: str = "base",
    backbone: str = "local",
    steps: int = 3,
    days: float = 0.0,
) -> RunDir:
    """A run that is over: checkpoints of all steps, the second of which is the best."""
    run = RunDir.create(BASE, name)
    settings = {"backbone": backbone, "model": {"path": model}}
    run.config_file.write_text(yaml.safe_dump({"astuner": settings}))
    run.log_file.write_text("ended\n")
    for step in range(1, steps + 1):
        append_json_line(run.episodes_file(step, "train"), {"text": "x" * 100_000})
        folder = run.checkpoint_dir(step)
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(b"x" * 1_000_000)
        (folder / STATE_NAME).write_bytes(b"x" * 6_000_000)
        write_json(folder / "astuner.json", {"step": step})
        write_manifest(folder)
    if steps > 1:
        run.point_best_to(run.checkpoint_dir(2))
    for path in run.root.rglob("*"):
        os.utime(path, (time.time() - days * DAY,) * 2, follow_symlinks=False)
    return run


def everything() -> dict[str, int]:
    """Every file below the current folder with its size."""
    return {str(p): p.lstat().st_size for p in Path().rglob("*") if not p.is_dir()}


def test_without_a_part_it_shows_what_each_run_takes_and_deletes_nothing(capsys):
    run, other = make_run("math"), make_run("chess", steps=1)
    before = everything()
    assert main(["clean"]) == 0
    shown = capsys.readouterr().out
    assert re.search(rf"math/{run.root.name} .* 3\.0 MB +18\.0 MB +0\.3 MB +0\.0 MB", shown)
    assert re.search(rf"chess/{other.root.name} .* 1\.0 MB +6\.0 MB +0\.1 MB", shown)
    assert re.search(r"^all +4\.0 MB +24\.0 MB +0\.4 MB", shown, re.MULTILINE)
    assert "nothing is deleted: name --runs" in shown
    assert main(["clean", "--yes"]) == 0
    assert everything() == before


@pytest.mark.parametrize("flag", ["--runs", "--states", "--checkpoints", "--episodes"])
def test_without_a_terminal_and_without_yes_nothing_is_deleted(flag, capsys):
    make_run("math")
    before = everything()
    assert main(["clean", flag, "--keep", "0"]) == 2
    assert "nothing was deleted, since this is no terminal" in capsys.readouterr().err
    assert main(["clean", flag, "--keep", "0", "--dry-run"]) == 0
    assert "nothing was deleted (--dry-run)" in capsys.readouterr().out
    assert everything() == before


@pytest.mark.parametrize(
    ("answer", "is_deleted"), [(b"y\n", True), (b"\n", False), (b"no\n", False)]
)
def test_in_a_terminal_it_asks(answer, is_deleted, monkeypatch):
    run = make_run("math")
    screen, terminal = pty.openpty()
    with open(terminal, closefd=False) as asked, open(terminal, "w") as told:
        monkeypatch.setattr(sys, "stdin", asked)
        monkeypatch.setattr(sys, "stdout", told)
        os.write(screen, answer)
        assert main(["clean", "--runs", "--keep", "0"]) == 0
        told.flush()
        said = ""
        while "delete this? [y/N]" not in said:  # a terminal hands on what it is told in pieces
            assert select.select([screen], [], [], 60)[0], said
            said += os.read(screen, 100_000).decode()
    os.close(screen)
    assert "the whole run" in said
    assert run.root.exists() is not is_deleted


def test_whole_runs_go_with_the_link_and_the_folder_of_their_name(capsys):
    make_run("math")
    make_run("math")
    assert main(["clean", "--runs", "--yes", "--keep", "0"]) == 0
    assert capsys.readouterr().out.endswith("deleted\n")
    assert everything() == {} and not (BASE / "math").exists()


def test_training_states_go_and_the_checkpoints_stay_whole():
    run = make_run("math")
    assert main(["clean", "--states", "--yes", "--keep", "0"]) == 0
    assert list(run.root.rglob(STATE_NAME)) == []
    assert [has_training_state(folder) for folder in run.checkpoints().values()] == [False] * 3
    assert len(list(run.root.rglob("model.safetensors"))) == 3


def test_the_newest_and_the_best_checkpoint_stay():
    run = make_run("math", steps=5)
    assert main(["clean", "--checkpoints", "--yes", "--keep", "0"]) == 0
    assert list(run.checkpoints()) == [5, 2]


def test_without_the_link_the_newest_checkpoint_says_which_is_the_best():
    run = make_run("math", steps=5)
    (run.checkpoints_dir / "best").unlink()
    record = {"state": {"best": {"step": 4, "success_rate": 1.0}}}
    write_json(run.checkpoint_dir(5) / "astuner.json", record)
    assert main(["clean", "--checkpoints", "--yes", "--keep", "0"]) == 0
    assert list(run.checkpoints()) == [5, 4]


def test_episodes_go_and_metrics_stay():
    run = make_run("math")
    append_json_line(run.metrics_file, {"step": 3})
    append_json_line(run.training_file(1), {"step": 1})
    assert run.set_aside(after_step=2, is_logged=True)
    assert main(["clean", "--episodes", "--yes", "--keep", "0"]) == 0
    assert not run.episodes_dir.exists() and not run.set_aside_dir.exists()
    assert not run.training_dir.exists()
    assert run.metrics_file.is_file() and len(run.checkpoints()) == 2


def test_the_newest_of_each_name_and_younger_ones_stay(capsys):
    old, older, newest = make_run("math", days=9), make_run("math", days=40), make_run("math")
    other = make_run("chess", days=50)
    assert main(["clean", "--runs", "--yes", "--older-than", "30d"]) == 0
    shown = capsys.readouterr().out
    assert "stays: too new" in shown and shown.count("stays: among the newest") == 2
    assert [run.root.exists() for run in (old, older, newest, other)] == [True, False, True, True]
    assert main(["clean", "--runs", "--yes", "--keep", "2"]) == 0
    assert old.root.exists()
    assert main(["clean", "--runs", "--yes"]) == 0
    assert [run.root.exists() for run in (old, newest, other)] == [False, True, True]
    latest = RunDir.latest(BASE, "math")
    assert latest is not None and latest.root.name == newest.root.name


def test_a_newer_run_without_a_checkpoint_does_not_make_a_model_superfluous():
    trained, debugged = make_run("math", days=2), make_run("math", backbone="debug", steps=0)
    assert main(["clean", "--runs", "--yes"]) == 0
    assert trained.root.exists() and debugged.root.exists()
    assert main(["clean", "--runs", "--yes", "--keep", "0"]) == 0
    assert not trained.root.exists() and not debugged.root.exists()


@pytest.mark.parametrize(
    "files",
    [
        {"started.json": "{}"},
        {"started.json": '{"server": "api", "number": "3"}'},
        {"started.json": "[" * 9999},
        {"started.json": ""},
        {"config.yaml": "astuner: 5", "run.log": ""},
        {"config.yaml": "model: {path: base}", "run.log": "done"},
        {"config.yaml": "- a", "run.log": "done"},
    ],
)
@pytest.mark.parametrize("named", ["launcher_record", "launcher_record/server/v1"])
def test_a_folder_that_no_run_wrote_is_never_deleted(files, named, capsys):
    make_run("adder")
    folder = BASE / "server/v1"
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name).write_text(text)
    before = everything()
    code = main(["clean", named, "--runs", "--yes", "--keep", "0"])
    shown = capsys.readouterr()
    kept = {path: size for path, size in before.items() if "server" in path}
    assert kept.items() <= everything().items() and "server/v1" not in shown.out
    assert code == (0 if named == "launcher_record" else 2)


def test_a_run_that_is_named_goes_though_it_is_the_newest():
    run, other = make_run("math"), make_run("chess")
    assert main(["clean", "--runs", "--yes", str(run.root)]) == 0
    assert not run.root.exists() and other.root.exists()
    assert main(["clean", "--runs", "--yes", "--keep", "0", str(BASE / "chess")]) == 0
    assert not other.root.exists()


def test_a_run_that_is_at_work_is_never_touched(capsys):
    run = make_run("math", days=90)
    before = everything()
    with run.in_use():
        for part in ("--runs", "--states", "--checkpoints", "--episodes"):
            assert main(["clean", part, "--yes", "--keep", "0"]) == 0
            assert "stays: it is at work" in capsys.readouterr().out
    assert {**everything(), str(run.root / ".lock"): 0} == {**before, str(run.root / ".lock"): 0}
    assert run.worker() is None


@pytest.mark.parametrize(
    ("host", "days", "stays"), [("elsewhere", 0.1, True), ("elsewhere", 2, False), ("", 0.1, False)]
)
def test_a_run_begun_on_another_machine_may_be_at_work_though_its_lock_is_not_seen(
    host, days, stays, capsys
):
    run = make_run("math", days=days)
    (run.root / ".lock").write_text(f"{host} 77" if host else "")
    assert main(["clean", "--runs", "--yes", "--keep", "0"]) == 0
    said = "stays: process 77 of elsewhere may be at work on it" in capsys.readouterr().out
    assert said is stays and run.root.exists() is stays


def test_a_killed_run_of_this_machine_is_over():
    run = make_run("math")
    code = f"""
import os, signal
from pathlib import Path
from astuner.run_dir import RunDir
with RunDir(root=Path({str(run.root)!r})).in_use():
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    assert run.worker() is None


def test_a_checkpoint_that_another_run_began_from_is_never_deleted(capsys):
    base = make_run("math", steps=4)
    user = make_run("more", model=str(base.checkpoint_dir(3).absolute() / "merged"))
    assert main(["clean", "--checkpoints", "--yes", str(base.root)]) == 0
    assert list(base.checkpoints()) == [4, 3, 2]
    capsys.readouterr()
    assert main(["clean", "--runs", "--yes", str(base.root)]) == 0
    assert f"stays: more/{user.root.name} began from its step_3" in capsys.readouterr().out
    shutil.move(BASE, "elsewhere")  # and the project with it
    assert main(["clean", "--runs", "--yes", "--keep", "0", "elsewhere/math"]) == 0
    assert Path("elsewhere/math", base.root.name).exists()


def test_a_checkpoint_that_was_only_tried_may_go():
    base = make_run("math", steps=4)
    make_run("more", model=str(base.checkpoint_dir(3).absolute()), backbone="debug")
    assert main(["clean", "--checkpoints", "--yes", str(base.root)]) == 0
    assert list(base.checkpoints()) == [4, 2]


def test_a_checkpoint_that_another_run_measures_from_stays():
    base, user = make_run("math", steps=4), make_run("more")
    settings = yaml.safe_load(user.config_file.read_text())
    settings["astuner"]["trainer_common"] = {"reference": str(base.checkpoint_dir(3).absolute())}
    user.config_file.write_text(yaml.safe_dump(settings))
    assert main(["clean", "--checkpoints", "--yes", str(base.root)]) == 0
    assert list(base.checkpoints()) == [4, 3, 2]


def test_what_cannot_be_deleted_is_said(capsys):
    run = make_run("math")
    (run.checkpoint_dir(2) / "manifest.json").write_text("[]")
    assert main(["clean", "--states", "--yes", "--keep", "0"]) == 1
    said = capsys.readouterr().err
    assert f"math/{run.root.name}: training state of step_2 was not deleted: manifest.json" in said
    assert [path.parent.name for path in run.root.rglob(STATE_NAME)] == ["step_2"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "there is no such folder"),
        (["."], "there are no runs in it"),
        (["--older-than", "soon"], "write 12h, 30d or 8w"),
        (["--keep", "-1"], "--keep"),
        (["--yes", "--dry-run"], "not allowed with"),
    ],
)
def test_what_it_cannot_do_is_bad_usage(arguments, said, capsys):
    try:
        code: object = main(["clean", *arguments])
    except SystemExit as error:
        code = error.code
    assert code == 2
    assert said in capsys.readouterr().err


def test_its_help_teaches_each_part(capsys):
    with pytest.raises(SystemExit):
        main(["clean", "--help"])
    shown = capsys.readouterr().out
    for flag in ("--runs", "--checkpoints", "--states", "--episodes", "--older-than", "--keep"):
        assert flag in shown
    assert "never touched" in shown and "astuner clean --states --dry-run" in shown


def test_it_needs_no_torch():
    make_run("math")
    code = (
        "import sys\nfrom astuner.cli import main\n"
        "assert main(['clean', '--states', '--keep', '0', '--yes']) == 0\n"
        "assert not {'torch', 'transformers', 'safetensors'} & sys.modules.keys()\n"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
