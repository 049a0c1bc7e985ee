"""`astuner traces`: what it writes, what it shows, and what is left when it is ended."""

import json
import os
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from astuner.cli.main import main
from astuner.errors import ConfigError, TraceSourceError
from astuner.traces import importing
from astuner.traces.cursors import TraceCursors, content_digest
from astuner.traces.importing import importing_to
from astuner.traces.reader import read_traces
from astuner.traces.reading import Found, Unread
from astuner.traces.sources.known import open_source
from astuner.traces.stats import DistinctCount, NameCounts, TraceStats
from astuner.traces.trace import Origin, Step, Trace, TracedTokens, TraceFeedback
from astuner.traces.trace_json import trace_line
from tests.otlp_files import GivenSource
from tests.signals import signals_of_a_terminal
from tests.viewer_runs import add, make_run, record

MAIL, KEY = "erika.muster@firma-nord.de", "sk-proj-a8F3kd92LmQz71xYb0Rt55Wv"
ORIGIN = Origin(source="otlp", address="a.jsonl")


def talk(number: int, text: str = "What is this?", **changed: Any) -> Trace:
    steps = (
        Step(role="user", text=f"{number}: {text}"),
        Step(
            role="assistant",
            text="A shop.",
            model="tiny",
            input_tokens=5,
            output_tokens=2,
            started=1_700_000_000.0 + number,
            tokens=TracedTokens(prompt_ids=(1,), reply_ids=(2, 3)),
            tools=({"type": "function", "function": {"name": "find"}},),
        ),
    )
    given = {"trace_id": f"t{number}", "steps": steps, "origin": ORIGIN, **changed}
    return Trace(**given)


def write(path: Path, *traces: Trace) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(map(trace_line, traces)))
    return path


def read(folder: Path) -> list[Trace]:
    unread = Unread()
    found = list(read_traces(open_source(str(folder)), unread))
    assert not unread.counts, unread
    return found


def command(*words: str | Path) -> int:
    return main(["traces", *map(str, words)])


def test_an_import_masks_counts_and_brings_only_what_is_new_the_next_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = tmp_path / "given.jsonl", tmp_path / "out"
    private = talk(2, f"I am {MAIL}, my key is {KEY}", user="u17", session=MAIL)
    write(source, talk(1), private)
    assert command("import", source, "--out", out) == 0
    shown = capsys.readouterr().out
    assert "2 traces" in shown and re.search(r"masked +.*email 1", shown)
    assert re.search(r"tools offered +find 2", shown)
    plain, masked = read(out)
    assert plain.steps[1].tokens == talk(1).steps[1].tokens
    assert masked.steps[0].text == "2: I am [email], my key is [secret]"
    assert masked.steps[1].tokens is None
    for path in out.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        for secret in (MAIL, KEY, "u17"):
            assert secret.encode() not in path.read_bytes()
    with source.open("ab") as file:
        file.write(trace_line(talk(3)))
        file.write(trace_line(talk(1)))
    assert command("import", source, "--out", out) == 0
    assert "1 traces, 1 known already" in capsys.readouterr().out
    assert [trace.trace_id for trace in read(out)][2:] == ["t3"]


def test_unmasked_is_as_it_was(tmp_path: Path) -> None:
    given = talk(1, f"I am {MAIL}", user=MAIL)
    source = write(tmp_path / "given.jsonl", given)
    assert command("import", source, "--out", tmp_path / "out", "--unmasked") == 0
    assert read(tmp_path / "out") == [given]


def test_a_preview_shows_conversations_masked_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    feedback = (TraceFeedback(name="thumb", score=0.0, correction="A bank."),)
    given = talk(1, f"\x1b[31mI am {MAIL}", feedback=feedback)
    source = write(tmp_path / "given" / "a.jsonl", given, talk(2), talk(3))
    assert command("import", source, "--out", tmp_path / "out", "--preview", "2") == 0
    shown = capsys.readouterr().out
    assert "[user]\n1: \\x1b[31mI am [email]\n" in shown
    assert "[assistant (tiny)]\nA shop.\n" in shown
    assert "feedback thumb, 0, right would be: A bank." in shown
    assert "2: What is this?" in shown and "3: What" not in shown
    assert [path.name for path in tmp_path.iterdir()] == ["given"]


def test_since_leaves_out_what_began_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = talk(1), talk(2_000_000)
    source = write(tmp_path / "given.jsonl", old, new)
    words = ("import", source, "--out", tmp_path / "out", "--unmasked")
    assert command(*words, "--since", "2023-11-20") == 0
    assert "1 traces, 1 too old" in capsys.readouterr().out
    assert read(tmp_path / "out") == [new]


class EndedSource(GivenSource):
    """Ends in between, as by Ctrl-C or a server that goes."""

    def __init__(self, found: Sequence[Found], error: BaseException) -> None:
        super().__init__(found)
        self._error = error

    def read(self, unread: Unread, since: Any) -> Any:
        yield from self._found
        raise self._error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), TraceSourceError("gone")])
def test_what_was_read_before_the_end_stays_and_is_not_brought_twice(
    tmp_path: Path, error: BaseException
) -> None:
    with pytest.raises(type(error)), importing_to(tmp_path) as one:
        one.take(EndedSource([talk(1), talk(2)], error), change=lambda trace: trace)
    assert read(tmp_path) == [talk(1), talk(2)]
    with importing_to(tmp_path) as one:
        one.take(GivenSource([talk(1), talk(2), talk(3)]), change=lambda trace: trace)
    assert one.counts.num_new == 1
    assert read(tmp_path) == [talk(1), talk(2), talk(3)]


@pytest.mark.parametrize("where", ["change", "digest", "first", "last"])
def test_a_trace_at_which_an_import_was_ended_comes_with_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    traces = [talk(number) for number in range(4)]
    ended = [{"first": traces[0], "last": traces[3]}.get(where, traces[2])]

    def end_once(trace: Trace) -> None:
        if [trace] == ended:
            ended.clear()
            raise KeyboardInterrupt

    def change(trace: Trace) -> Trace:
        if where != "digest":
            end_once(trace)
        return trace

    def digest(trace: Trace) -> int:
        if where == "digest":
            end_once(trace)
        return content_digest(trace)

    monkeypatch.setattr(importing, "content_digest", digest)
    with pytest.raises(KeyboardInterrupt), importing_to(tmp_path) as one:
        one.take(GivenSource(traces), change=change)
    monkeypatch.undo()
    with importing_to(tmp_path) as one:
        one.take(GivenSource(traces), change=lambda trace: trace)
    assert read(tmp_path) == traces


def test_what_the_disk_refused_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: int) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(Exception, match="No space left"), importing_to(tmp_path) as one:
        monkeypatch.setattr(os, "fsync", full)
        one.take(GivenSource([talk(1)]), change=lambda trace: trace)
    monkeypatch.undo()
    assert TraceCursors(tmp_path).is_new(talk(1))


def test_two_imports_to_one_folder_at_a_time_are_refused(tmp_path: Path) -> None:
    with (
        importing_to(tmp_path),
        pytest.raises(ConfigError, match="another process imports"),
        importing_to(tmp_path),
    ):
        pass


def test_a_folder_of_something_else_is_no_place_for_an_import(tmp_path: Path) -> None:
    (tmp_path / "spans.jsonl").write_text("{}")
    with pytest.raises(ConfigError, match="something else"), importing_to(tmp_path):
        pass


def test_stats_tell_what_is_in_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    feedback = (
        TraceFeedback(name="thumb", score=1.0, label="up"),
        TraceFeedback(name="thumb", score=0.0, label="down"),
    )
    source = write(
        tmp_path / "given.jsonl",
        talk(1, session="s", user="ann", agent="seller", feedback=feedback),
        talk(2, session="s", user="bob", agent="seller", error="TimeoutError: 30 s\nin detail"),
        talk(3, steps=(*talk(3).steps, Step(role="user", text="So?"))),
    )
    with source.open("ab") as file:
        file.write(b"nonsense\n")
    assert command("stats", source, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["traces"], found["failed"], found["sessions"], found["users"]) == (3, 1, 2, 2)
    assert found["turns"] == {"median": 1, "most": 2}
    assert found["tokens"] == {"input": 15, "output": 6}
    assert found["tools_offered"] == {"find": 3}
    assert found["errors"] == {"TimeoutError: 30 s": 1}
    assert found["feedback"]["thumb"] == {
        "number": 2,
        "mean": 0.5,
        "labels": {"up": 1, "down": 1},
    }
    assert found["unread"]["a line that is no JSON"]["number"] == 1
    assert command("stats", source) == 0
    shown = capsys.readouterr().out
    assert re.search(r"feedback +thumb: 2, mean score 0.5, up 1, down 1", shown)
    assert re.search(r"not read +1 times: a line that is no JSON; first .*line 4", shown)


def test_counts_of_many_different_names_are_bounded_and_of_texts_estimated() -> None:
    distinct, names = DistinctCount(), NameCounts()
    for number in range(30_000):
        for _ in range(1 + number % 2):
            distinct.add(f"user {number}")
        names.add(f"tool {number}")
    assert distinct.is_estimate and abs(distinct.number - 30_000) < 0.03 * 30_000
    assert len(names.counts) == 1_001 and names.counts["others"] == 29_000
    few = DistinctCount()
    for number in range(100):
        few.add(str(number % 7))
    assert few.number == 7 and not few.is_estimate


@pytest.mark.parametrize(
    ("turns", "median"), [([], None), ([3], 3), ([1, 2], 1.5), ([1, 1, 5], 1), ([1, 2, 3, 9], 2.5)]
)
def test_the_median_of_turns_is_that_of_the_traces(turns: list[int], median: float | None) -> None:
    stats = TraceStats()
    for number in turns:
        stats.add(talk(number, steps=(Step(role="user", text="a"),) * number))
    assert stats.median_turns == median


def made_run(tmp_path: Path) -> Path:
    run = make_run(tmp_path / "launcher_record")
    add(run, "step_000001.jsonl", record("step1-0-0"), record("step1-0-1", reward=None))
    second = record("step2-0-0", said=("And 2 + 2?", "4"))
    add(run, "step_000002.jsonl", {**second, "step": 2})
    return run


@pytest.mark.parametrize("to", ["atif", "otlp"])
def test_a_run_is_exported_and_read_back(
    tmp_path: Path, to: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out = made_run(tmp_path), tmp_path / to
    assert command("export", run, "--to", to, "--out", out) == 0
    assert "3 conversations of 3 episodes" in capsys.readouterr().out
    exported, episodes = read(out), read(run)
    texts = [[(step.role, step.text) for step in one.steps] for one in exported]
    assert texts == [[(step.role, step.text) for step in one.steps] for one in episodes]
    for one, episode in zip(exported, episodes, strict=True):
        tokens, others = one.steps[-1].tokens, episode.steps[-1].tokens
        assert tokens is not None and others is not None
        assert list(tokens.prompt_ids or ()) == list(others.prompt_ids or ())
        assert list(tokens.reply_ids or ()) == list(others.reply_ids or ())
        assert list(tokens.logprobs or ()) == list(others.logprobs or ())
        assert [one.score for one in one.feedback] == [one.score for one in episode.feedback]
        assert one.session == f"math_{run.name}:{episode.session}"


def test_one_step_of_a_run_is_exported(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert command("export", made_run(tmp_path), "--to", "atif", "--out", out, "--step", "2") == 0
    [trace] = read(out)
    assert trace.steps[0].text == "And 2 + 2?"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["import"], "wants a SOURCE"),
        (["collect", "a", "--out", "b"], "takes no SOURCE"),
        (["import", "a"], "by --out"),
        (["export", "a", "--out", "b"], "--to atif or --to otlp"),
        (["stats", "a", "--preview", "3"], "--preview is for import only"),
        (["stats", "a", "--unmasked"], "--unmasked is for import and collect only"),
        (["stats", "gone.jsonl", "--format", "nonsense"], "nonsense"),
        (["collect", "--out", "b", "--token-env", "NO_SUCH_NAME"], "set it"),
        (
            ["export", "gone", "--to", "atif", "--out", "b"],
            "launcher_record: the folder cannot be read",
        ),
    ],
)
def test_wrong_usage_is_told_with_what_to_do(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command(*words) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_source_that_is_not_there_fails(tmp_path: Path, capsys: Any) -> None:
    assert command("stats", tmp_path / "gone.jsonl") == 1
    assert "there is no such file or folder" in capsys.readouterr().err


def test_an_export_goes_to_a_new_folder(tmp_path: Path, capsys: Any) -> None:
    run = made_run(tmp_path)
    assert command("export", run, "--to", "atif", "--out", run) == 2
    assert "name a new folder" in capsys.readouterr().err


def test_a_collector_warns_where_others_reach_it_and_ends_by_ctrl_c_with_0(
    tmp_path: Path,
) -> None:
    words = ["collect", "--out", tmp_path, "--port", "0", "--host", "0.0.0.0", "--unmasked"]
    with signals_of_a_terminal():
        process = subprocess.Popen(
            [sys.executable, "-m", "astuner", "traces", *map(str, words)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
    with process:
        assert process.stdout is not None
        assert "no token is asked for" in process.stdout.readline()
        line = process.stdout.readline()
        port = int(re.findall(r":(\d+) takes", line)[0])
        span = {"traceId": "0" * 31 + "1", "spanId": "0" * 15 + "1", "name": "chat"}
        body = {"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]}
        posted = httpx.post(f"http://127.0.0.1:{port}/v1/traces", json=body)
        assert posted.status_code == 200
        process.send_signal(signal.SIGINT)
        assert "1 requests, 1 spans" in process.stdout.read()
    assert process.returncode == 0
    [path] = tmp_path.glob("traces_*.jsonl")
    assert json.loads(path.read_text())["resourceSpans"][0]["scopeSpans"][0]["spans"] == [span]
