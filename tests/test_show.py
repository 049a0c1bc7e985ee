"""`astuner show`: runs, steps, episodes and tokens in the terminal, and as JSON."""

import io
import json
import logging
import os
import pty
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from rich.console import Console

from astuner.cli.main import main
from astuner.console import LoggedConsole, RunConsole
from astuner.logview.reading.index import EpisodeIndex
from astuner.logview.terminal.choose import read_index
from astuner.logview.terminal.episode import episode_sheet
from astuner.logview.terminal.sheet import Sheet
from astuner.logview.view.conversation import read_conversation
from astuner.machine.visible import visible
from astuner.run_dir import append_json_lines
from astuner.trajectory.attempt import Failure
from astuner.trajectory.record import episode_to_record
from astuner.trajectory.recorder import BreakKind
from astuner.types import Task, Verdict
from tests.test_conversation_view import ADD, ASK, FIVE, SUM, in_two_calls, make_call, make_episode

HOSTILE = "\x1b[2J\x1b]0;owned\x07 \x9b31m \u202egnp.exe \r\ud800 \u2028 \x00 \x7f"
START = "2026-01-31_09-30-00"


def episode_of(step, task, attempt, **more):
    prefix = "validation" if more.get("is_validation") else "step"
    return make_episode(
        *more.pop("calls", in_two_calls()),
        **{
            "episode_id": f"{prefix}{step}-{task}-{attempt}",
            "step": step,
            "attempt": attempt,
            "task": Task(main_query="What is 2 + 3?", task_id=task, metadata={"answer": "5"}),
        }
        | more,
    )


FAILED = {
    "output": None,
    "verdict": None,
    "failure": Failure(kind="WorkflowError", message="no tool\nat all", traceback="Traceback: x"),
}


def write_run(root: Path, episodes, *, metrics=(), findings=()) -> Path:
    (root / "episodes").mkdir(parents=True)
    (root / "config.yaml").write_text("astuner:\n  backbone: local\n  model: {path: tiny}\n")
    (root / "run.log").write_text("2026-01-31 09:30:01,000 INFO astuner begun\n")
    started = {"number": 1, "started": f"{root.name[:10]}T09:30:00+00:00"}
    (root / "started.json").write_text(json.dumps(started))
    append_json_lines(root / "metrics.jsonl", metrics)
    (root / "events.jsonl").write_text(
        "".join(json.dumps({"event": "finding", **found}) + "\n" for found in findings)
    )
    for episode in episodes:
        kind = "validation" if episode.is_validation else "step"
        file = root / f"episodes/{kind}_{episode.step:06d}.jsonl"
        append_json_lines(file, [episode_to_record(episode)])
    return root


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of runs of two names, in the current directory."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    write_run(
        tmp_path / "launcher_record/adder" / START,
        [
            episode_of(1, "t", 0),
            episode_of(1, "t", 1, **FAILED),
            episode_of(1, "u", 0),
            episode_of(2, "t", 0),
            episode_of(2, "t", 0, is_validation=True),
        ],
        metrics=[
            {"step": 0, "validation/success_rate": 0.25, "validation/episodes": 8},
            {"step": 1, "reward/mean": 0.125, "reward/success_rate": None, "train/entropy": 1.5},
            {
                "step": 2,
                "reward/mean": 0.5,
                "validation/success_rate": 0.75,
                "validation/success_rate_low": 0.5,
                "validation/success_rate_high": 0.875,
                "validation/episodes": 8,
            },
        ],
        findings=[{"step": 1, "detector": "entropy", "message": "it fell", "stops": False}],
    )
    write_run(tmp_path / "launcher_record/adder/2026-02-01_09-30-00", [episode_of(1, "t", 0)])
    write_run(tmp_path / "launcher_record/chess/2025-01-31_09-30-00", [episode_of(1, "t", 0)])
    return tmp_path / "launcher_record"


@pytest.fixture
def show(folder, capsys):
    def shown(*arguments, code=0):
        assert main(["show", *arguments]) == code
        captured = capsys.readouterr()
        return captured.err if code else captured.out

    return shown


RUN = f"adder/{START}"


# --- Runs


def test_without_a_run_all_are_listed_by_name(show):
    lines = show().splitlines()
    assert [line.strip() for line in lines if not line.startswith("  ")] == ["adder", "chess"]
    (line,) = [line for line in lines if START in line]
    assert "0.25 → 0.75" in line and "0.12 → 0.50" in line


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        (RUN, RUN),
        (START, RUN),
        ("adder/2026-01", RUN),
        (f"launcher_record/adder/{START}", RUN),
        ("latest", "adder/2026-02-01_09-30-00"),
        ("chess/latest", "chess/2025-01-31_09-30-00"),
        ("chess", "chess/2025-01-31_09-30-00"),
        ("launcher_record/chess", "chess/2025-01-31_09-30-00"),
    ],
)
def test_a_run_goes_by_many_names(show, asked, name):
    assert show(asked).startswith(f"── run {name}\n")


def test_the_name_of_a_yaml_with_several_runs_lists_them(show):
    shown = show("adder")
    assert START in shown and "2026-02-01_09-30-00" in shown and "chess" not in shown


def test_a_folder_of_an_agent_hides_no_runs_of_its_name(show, tmp_path):
    (tmp_path / "chess").mkdir()
    (tmp_path / "chess/chess.yaml").write_text("astuner: {}\n")
    assert show("chess").startswith("── run chess/")


def test_a_folder_elsewhere_needs_no_launcher_record(show, folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert show(f"adder/{START}").startswith(f"── run {RUN}\n") and START in show(".")


def test_an_unknown_run_names_the_nearest(show):
    shown = show("chesss", code=2)
    assert "no run 'chesss'" in shown and "did you mean chess?" in shown


def test_a_folder_that_is_not_there_or_holds_no_runs_is_bad_usage(show, tmp_path):
    assert "nowhere" in show("--exp-dir", "nowhere", code=2)
    (tmp_path / "empty").mkdir()
    assert "empty holds no runs yet" in show("--exp-dir", "empty", code=2)


# --- Steps


def test_a_run_shows_a_line_for_each_step_and_its_validations(show):
    lines = show(RUN).splitlines()
    assert [line.split() for line in lines if line.lstrip().startswith(("step", "1 ", "2 "))] == [
        ["step", "reward", "entropy"],
        ["1", "0.125", "1.500"],
        ["2", "0.500", "-"],
    ]
    assert "  validation at step 0: 0.25 of 8 episodes solved" in lines
    assert lines[-1] == "0.25 → 0.75 of 8 episodes solved, 95% interval 0.50 to 0.88"


def test_what_was_found_stands_below_its_step(show):
    lines = show(RUN).splitlines()
    place = lines.index("  entropy at step 1: it fell")
    assert lines[place - 1].split()[0] == "1" and lines[place + 1].split()[0] == "2"


# --- Lists of episodes


def test_a_run_of_the_debug_backbone_says_what_came_of_its_episodes(show, folder):
    events = folder / "chess/2025-01-31_09-30-00/events.jsonl"
    events.write_text(json.dumps({"event": "started", "backbone": "debug"}) + "\n")
    shown = show("chess/latest")
    assert "1 of 1 episode solved\nThe debug backbone trains nothing." in shown
    assert "steps" not in shown and "reward" not in shown
    assert "trained, by weights" not in show("chess/latest", "step1-t-0", "--tokens")


def test_a_step_lists_its_episodes_by_task(show):
    lines = show(RUN, "--step", "1").splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [
        ["task", "t:"],
        ["step1-t-0", "2"],
        ["step1-t-1", "2"],
        ["task", "u:"],
        ["step1-u-0", "2"],
    ]
    assert "reward 1, solved" in lines[2] and "FAILED WorkflowError: no tool" in lines[3]


def test_episodes_are_chosen_by_outcome_task_and_kind(show):
    assert show(RUN, "--failed").count("step") == 1
    assert "step2-t-0" in (of_task := show(RUN, "--task", "t")) and "step1-u-0" not in of_task
    validation = show(RUN, "--step", "2", "--validation")
    assert "validation2-t-0" in validation and "step2-t-0" not in validation


def test_a_run_in_which_none_failed_has_no_failed_episode_to_list(show):
    assert show("chess/latest", "--failed").splitlines() == [
        "── chess/2025-01-31_09-30-00 · 0 failed episodes"
    ]
    assert show("chess/latest", "--failed", "--json") == ""
    assert "training and validations: steps 1 to 2" in show(RUN, "--task", "none", code=2)


def test_tokens_of_a_group_without_spread_are_not_said_to_be_trained(tmp_path, show):
    root = write_run(tmp_path / "r", [episode_of(1, "t", 0), episode_of(1, "t", 1)])
    shown = show(str(root), "step1-t-0", "--tokens")
    assert "not trained: all episodes of the group got the same reward" in shown


def test_a_step_without_episodes_says_which_have_some(show):
    shown = show(RUN, "--step", "7", code=2)
    assert "no episode" in shown and "steps 1 to 2" in shown


def test_a_step_is_listed_before_the_others_are_read(folder, tmp_path):
    index = EpisodeIndex((folder / RUN).resolve(), tmp_path / "small")
    index.refresh = partial(index.refresh, seconds=0.0)
    read_index(index, step=1, is_validation=False)
    assert [(e.step, e.is_indexed) for e in index.steps() if not e.is_validation] == [
        (1, True),
        (2, False),
    ]
    read_index(index, step=None, is_validation=None)
    assert all(entry.is_indexed for entry in index.steps())
    index.close()


# --- An episode


def test_an_episode_shows_what_was_said_and_why_it_got_its_reward(show):
    shown = show(RUN, "step1-t-0")
    for fact in (
        "What is 2 + 3?",
        "call 1 of ann (2 + 3 tokens, stop)",
        "→ add\n      a: 2\n      b: 3",
        "tool, to add:\n    5",
        "call 2 of ann (6 + 3 tokens, length)",
        "(cut by the limit on new tokens)",
        "reward 1 by judge, solved",
        "task answer: 5",
        "workflow final_answer: five",
        "2 s behind replies that called tools",
    ):
        assert fact in shown
    assert shown.count("assistant:\n    five") == 1


def test_calls_say_what_they_were_named_and_what_they_earned(show, folder):
    first, second = in_two_calls()
    verdict = Verdict(reward=1, is_success=True, source="judge", call_rewards=(0.25, 0.0))
    told = episode_of(1, "t", 0, calls=(replace(first, name="plan"), second), verdict=verdict)
    root = write_run(folder / "steps" / START, [told])
    shown = show(str(root), "step1-t-0")
    assert "(named plan)\n  (earned 0.25)\n" in shown and shown.count("(earned") == 1


def test_an_episode_shows_what_the_judge_said_and_what_its_reward_is_made_of(folder, show):
    verdict = Verdict(
        reward=0.5,
        is_success=False,
        source="judge",
        note="right: It is 5.\nshort: 4 characters.",
        parts={"right": 1.0, "right/unit": 0.25},
    )
    write_run(folder / "noted" / START, [episode_of(1, "t", 0, verdict=verdict)])
    said = show("noted", "step1-t-0").partition("reward 0.5 by judge, not solved\n  part")[2]
    assert said.startswith(" right: 1\n  part right/unit: 0.25\n  note:\n    right: It is 5.\n")


def test_a_failed_episode_shows_its_traceback(show):
    shown = show(RUN, "step1-t-1")
    assert "FAILED WorkflowError: no tool\nat all\nTraceback: x" in shown


def test_the_beginning_of_an_id_is_enough_where_no_other_begins_so(show):
    assert "── episode step1-u-0" in show(RUN, "step1-u")
    shown = show(RUN, "step1-t", code=2)
    assert "2 episodes" in shown and "step1-t-0, step1-t-1" in shown


def test_an_unknown_episode_names_the_nearest(show):
    assert "did you mean step1-u-0?" in show(RUN, "step1-v-0", code=2)


def test_an_episode_of_several_runs_is_not_guessed(show):
    shown = show("adder", "step1-t-0", code=2)
    assert "'adder' names several runs" in shown and RUN in shown


def test_json_is_the_record(show, folder):
    written = (folder / RUN / "episodes/step_000001.jsonl").read_text().splitlines()
    assert json.loads(show(RUN, "step1-t-0", "--json")) == json.loads(written[0])
    listed = show(RUN, "--step", "1", "--json").splitlines()
    assert [json.loads(line) for line in listed] == [json.loads(line) for line in written]
    assert [json.loads(line)["step"] for line in show(RUN, "--json").splitlines()] == [0, 1, 2]
    assert json.loads(show("--json").splitlines()[0])["run"] == "adder/2026-02-01_09-30-00"


def test_a_record_of_a_newer_format_is_said_and_the_others_are_shown(show, folder):
    path = folder / RUN / "episodes/step_000002.jsonl"
    record = json.loads(path.read_text())
    append_json_lines(path, [record | {"format": 99, "episode_id": "step2-t-9"}])
    assert "format 99" in show(RUN, "--step", "2")
    assert "format 99" in show(RUN, "step2-t-9", code=1)
    assert "1 of 2 records cannot be read" in show(RUN, "--step", "2", "--json", code=1)


def test_what_does_not_go_together_is_bad_usage(show):
    assert "EPISODE" in show(RUN, "step1-t-0", "--step", "1", code=2)
    assert "--tokens" in show(RUN, "--tokens", code=2)


def test_nothing_is_written_into_a_run(show, folder):
    def state():
        return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}

    before = state()
    show(RUN)
    show(RUN, "--step", "1")
    show(RUN, "step1-t-0", "--tokens")
    assert state() == before


# --- Tokens


def test_tokens_say_what_became_of_each_stretch_without_colour(show):
    shown = show(RUN, "step1-t-0", "--tokens")
    assert "call 1, 2 tokens, not trained: given to the model:\n    1 2" in shown
    assert "call 1, 3 tokens, trained, by weights 4:\n    7 8 9" in shown
    assert "wrote no vocabulary" in shown


def test_a_sequence_whose_calls_have_advantages_of_their_own_says_their_range(show, folder):
    folder = folder / RUN / "training"
    folder.mkdir(exist_ok=True)
    line = {"format": 1, "step": 1, "episode_id": "step1-t-0", "sequence": 0, "advantage": 0.05}
    line["call_advantages"] = [[3, 0.3], [3, -0.2]]
    (folder / "step_000001.jsonl").write_text(json.dumps(line) + "\n")
    shown = show(RUN, "step1-t-0", "--tokens")
    assert "trained, advantage +0.05 (\u22120.20 to +0.30 by call))" in shown


def test_tokens_are_texts_where_the_run_wrote_a_vocabulary(show, folder):
    tokens = ["<0>", "Hi", "\n", "c", "d", "e", "f", "\x1b[2J", {"bytes": "e2 96"}, "<end>"]
    vocabulary = {"format": 1, "tokens": tokens, "special": [9]}
    (folder / RUN / "vocabulary.json").write_text(json.dumps(vocabulary))
    shown = show(RUN, "step1-t-0", "--tokens")
    assert "    Hi↵\n" in shown and "    \\x1b[2J⟨e2 96⟩<end>" in shown and "\x1b" not in shown


def test_improbable_tokens_are_named(show, folder):
    call = make_call([ASK], FIVE)
    call = replace(call, completion=replace(call.completion, logprobs=(-0.01, -3.0, -1.0)))
    root = write_run(folder / "rare" / START, [episode_of(1, "t", 0, calls=(call,))])
    assert "least probable: 8 0.05, 9 0.37" in show(str(root), "step1-t-0", "--tokens")


def test_a_sequence_that_begins_anew_says_why(show, folder):
    edited = {"role": "assistant", "content": "I add."}
    broken = make_call(
        [ASK, edited, SUM],
        FIVE,
        given=(3, 4),
        break_reason="message 1 (assistant): content differs",
        break_kind=BreakKind.EDITED,
        break_message=1,
    )
    calls = (make_call([ASK], ADD), broken)
    root = write_run(folder / "broken" / START, [episode_of(1, "t", 0, calls=calls)])
    shown = show(str(root), "step1-t-0", "--tokens")
    assert "a new sequence starts here: message 1 (assistant): content differs" in shown
    assert "its first message as in call 1" in shown
    assert "sequence 2 of 2" in shown and "begins anew at call 2: message 1" in shown


# --- What a model says is never obeyed


def hostile_episode():
    called = {"function": {"name": HOSTILE, "arguments": {HOSTILE: HOSTILE}}, "id": HOSTILE}
    said = {
        "role": "assistant",
        "content": HOSTILE,
        "reasoning_content": HOSTILE,
        "tool_calls": [called],
    }
    call = make_call(
        [{"role": HOSTILE, "content": HOSTILE, "name": HOSTILE}],
        said,
        agent_name=HOSTILE,
        break_reason=HOSTILE,
    )
    failure = Failure(kind=HOSTILE, message=HOSTILE, traceback=HOSTILE)
    return episode_of(1, HOSTILE, 0, calls=(call,), **FAILED | {"failure": failure})


def obeyed(text: str) -> set[str]:
    """The signs of the hostile text that a terminal would act on, or could not be sent."""
    return set(text) & (set(HOSTILE) - set(visible(HOSTILE)))


def test_controls_are_written_out_and_letters_stay():
    assert visible("\x1b[2J\x9b\r\u202e\ud800") == "\\x1b[2J\\x9b\\r\\u202e\\ud800"
    kept = "a\tb\n\u05d0\u05d1 \u0645\u0631 \U0001f642 \u200d e\u0301"
    assert visible(kept) == kept


def test_a_hostile_episode_moves_no_cursor(show, folder):
    root = write_run(folder / "hostile" / START, [hostile_episode()])
    outputs = [
        show(str(root)),
        show(str(root), "--step", "1"),
        show(str(root), "step1", "--tokens"),
        show(str(root), "step1", "--json"),
    ]
    assert all(obeyed(output) == set() for output in outputs)
    assert "\\x1b[2J" in outputs[2]
    assert obeyed(show(str(root), "step1-nothing", code=2)) == set()


def test_a_hostile_run_moves_no_cursor(show, folder):
    metrics = [{"step": 1, "reward/mean": HOSTILE, HOSTILE: 1.0}]
    found = [{"step": 1, "detector": HOSTILE, "message": HOSTILE, "stops": True}]
    root = write_run(folder / "hostile" / START, [], metrics=metrics, findings=found)
    (root / "run.log").write_bytes(b"\x1b[2J\n")
    assert obeyed(show(str(root))) == set() and obeyed(show()) == set()


def test_debug_shows_a_hostile_episode_without_obeying_it(caplog):
    sheet = episode_sheet(hostile_episode())
    screens = []
    for is_terminal in (False, True):
        screen = Console(file=io.StringIO(), force_terminal=is_terminal, color_system=None)
        with caplog.at_level(logging.DEBUG, logger="astuner.console"):
            RunConsole(screen, is_live=False).show(sheet, sheet.plain)
        screens.append(screen.file.getvalue())
    assert all("owned" in text and obeyed(text) == set() for text in screens)
    assert "owned" in caplog.text and obeyed(caplog.text) == set()


AGENT = f"""
from astuner import Workflow, WorkflowOutput

class Hostile(Workflow):
    async def execute(self, workflow_task, model_tuner):
        if workflow_task.attempt == 1:
            raise RuntimeError({HOSTILE!r})
        return WorkflowOutput(reward=1.0, metadata={{{HOSTILE!r}: {HOSTILE!r}}})
"""


def test_a_debug_run_of_a_hostile_agent_writes_nothing_to_obey(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    Path("agent.py").write_text(AGENT)
    settings = {
        "backbone": "debug",
        "task_reader": {"type": "random_dummy"},
        "rollout": {
            "agentscope_workflow": "agent->Hostile",
            "num_repeat": 2,
            "max_failed_fraction": 1.0,
        },
        "debug": {"openai_base_url": "http://127.0.0.1:9/v1", "openai_model": "none"},
    }
    Path("job.yaml").write_text(json.dumps({"astuner": settings}))
    assert main(["--conf", "job.yaml"]) == 0
    shown = capfd.readouterr().err
    log = Path("launcher_record/job/latest/run.log").read_text()
    assert "\\x1b[2J" in shown and "FAILED" in shown and obeyed(shown) == set()
    assert "\\x1b[2J" in log and obeyed(log) == set()


def test_a_log_for_machines_gets_the_episode_as_text(caplog):
    sheet = episode_sheet(make_episode(*in_two_calls()))
    with caplog.at_level(logging.INFO, logger="astuner.console"):
        LoggedConsole().show(sheet, sheet.plain)
    assert [record.getMessage() for record in caplog.records] == [sheet.plain.strip()]


# --- Terminals and pipes


def test_a_screen_breaks_lines_between_words_and_a_pipe_does_not():
    sheet = Sheet()
    sheet.add("word " * 40, indent=4)
    screen = Console(file=io.StringIO(), force_terminal=True, width=80, color_system=None)
    screen.print(sheet)
    lines = screen.file.getvalue().splitlines()
    assert len(lines) > 1 and all(len(line) <= 80 for line in lines)
    assert {word for line in lines for word in line.split()} == {"word"}
    assert all(line.startswith("    word") for line in lines)
    assert len(sheet.plain.splitlines()) == 1


def test_a_terminal_gets_colours_and_no_colour_where_none_is_wanted(folder):
    def on_terminal(**more):
        main_end, its_end = pty.openpty()
        with os.fdopen(main_end, "rb", buffering=0) as screen:
            environment = {k: v for k, v in os.environ.items() if k != "NO_COLOR"}
            done = subprocess.Popen(
                [sys.executable, "-m", "astuner", "show", RUN, "step1-t-0"],
                stdout=its_end,
                env=environment | {"TERM": "xterm-256color", **more},
            )
            os.close(its_end)
            said = b""
            try:
                while part := screen.read(65536):
                    said += part
            except OSError:
                pass  # so Linux ends a terminal whose other side was closed
            assert done.wait(timeout=60) == 0
        return said

    assert b"\x1b[1;38;5;32m" in on_terminal()
    assert b"38;5" not in on_terminal(NO_COLOR="1")


def test_a_reader_who_leaves_early_ends_it_quietly(folder):
    program = f"{sys.executable} -m astuner show --json {RUN} --failed | true"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {program}"], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_screen_that_knows_only_ascii_gets_escapes(folder):
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "astuner", "show", RUN, "step1-t-0"]
    done = subprocess.run(command, capture_output=True, env=environment, timeout=60)
    assert done.returncode == 0 and b"\\u2192 add" in done.stdout


def test_an_episode_without_calls_is_shown():
    episode = make_episode(**FAILED, agents={("ann", "tag"): True})
    assert "ann was given a model and made no call" in episode_sheet(episode).plain
    assert read_conversation(episode).calls == ()
