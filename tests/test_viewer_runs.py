"""The pages of runs, of their curves and of their settings say what the files of the runs say."""

import asyncio
import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("uplot")

import httpx

from astuner.logview.reading.shelf import Shelf
from astuner.logview.web.addresses import part_of, run_at, step_at
from astuner.logview.web.app import make_app
from astuner.run_dir import RunDir, append_json_lines
from tests.viewer_runs import add, make_run, record

FIRST, SECOND = "2026-01-31_09-30-00", "2026-01-31_10-00-00"
NAME = f"math/{FIRST}"
HOSTILE = '<img src=x onerror="alert(1)">'


class Viewed:
    """The viewer over a folder of runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "runs"
        self.folder.mkdir()
        self._app = make_app(Shelf([self.folder], cache_dir=folder / "cache"))

    def run(self, name: str = "math", start: str = FIRST) -> Path:
        return make_run(self.folder, name, start)

    def at(self, address: str) -> httpx.Response:
        return asyncio.run(self._fetch(address))

    async def _fetch(self, address: str) -> httpx.Response:
        # Starlette's TestClient would take quoted names apart.
        transport = httpx.ASGITransport(self._app)
        async with httpx.AsyncClient(transport=transport, base_url="http://viewer") as client:
            return await client.get(address)

    def page(self, address: str) -> str:
        """The text of a page, as somebody reads it."""
        text = re.sub(r"<(script|template|title)\b.*?</\1>", "", self.at(address).text, flags=re.S)
        return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", text))

    def charts(self, address: str) -> dict[str, Any]:
        """What is drawn on a page, by the keys of its charts."""
        found = re.search(r'id="charts"[^>]*>(.*?)</script>', self.at(address).text, re.S)
        assert found is not None
        return json.loads(found[1])["charts"]


@pytest.fixture
def viewed(tmp_path):
    return Viewed(tmp_path)


def measure(root: Path, *rows: dict[str, Any]) -> None:
    """Append to the metrics; NaN is written as Python does."""
    with (root / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def tell(root: Path, *events: dict[str, Any]) -> None:
    time = {"time": "2026-01-31T09:31:00+00:00"}
    append_json_lines(root / "events.jsonl", [time | event for event in events])


def configure(root: Path, text: str) -> None:
    RunDir(root=root).new_config_file().write_text(text)


VALIDATED = [
    {"step": 0, "validation/success_rate": 0.16, "validation/success_rate_low": 0.1,
     "validation/success_rate_high": 0.25, "validation/episodes": 88},
    {"step": 1, "reward/mean": 0.31, "train/entropy": 1.9},
    {"step": 2, "reward/mean": 0.89, "train/entropy": 0.6, "validation/success_rate": 0.86,
     "validation/success_rate_low": 0.78, "validation/success_rate_high": 0.92,
     "validation/episodes": 88},
]  # fmt: skip


# all runs


def test_a_folder_without_runs_says_how_to_start_one(viewed):
    said = viewed.page("/")
    assert "No run yet" in said
    assert "astuner --conf my.yaml" in said


def test_the_list_says_of_each_run_what_became_of_it(viewed):
    root = viewed.run()
    measure(root, *VALIDATED)
    tell(
        root,
        {"event": "started", "backbone": "local", "model": "/models/tiny"},
        {"event": "planned", "num_steps": 2},
        {"event": "ended", "exit_code": 0, "error": None},
    )
    said = viewed.page("/")
    assert "1 run" in said
    assert "done" in said
    assert "local · tiny" in said
    assert "0.16 → 0.86 of 88 95% interval 0.78 to 0.92" in said
    assert "0.31 → 0.89" in said
    assert "2 of 2" in said
    assert "<polyline" in viewed.at("/").text


def test_a_failed_run_says_its_last_line_and_a_killed_one_that_it_was(viewed):
    failed, killed = viewed.run("failed_one"), viewed.run("killed_one")
    error = {"kind": "ConfigError", "message": "the learning rate is <0"}
    tell(failed, {"event": "started"}, {"event": "ended", "exit_code": 2, "error": error})
    tell(killed, {"event": "started"})
    (killed / "run.log").write_text("2026-01-31 09:30:00,000 INFO astuner step 7 of 9\n")
    said = viewed.page("/")
    assert "failed ConfigError: the learning rate is &lt;0" in said
    assert "killed" in said
    for_failed = viewed.page(run_at(f"failed_one/{FIRST}"))
    assert "The run failed" in for_failed
    assert "the learning rate is &lt;0" in for_failed
    for_killed = viewed.page(run_at(f"killed_one/{FIRST}"))
    assert "The run was killed" in for_killed
    assert "Last lines of the log" in for_killed
    assert "step 7 of 9" in for_killed


def test_the_list_is_filtered_by_every_word(viewed):
    for name in ("math", "poems"):
        viewed.run(name)
    assert "1 of 2 runs" in viewed.page("/?q=MATH+09-30")
    assert "poems" not in viewed.page("/?q=math")
    nothing = viewed.page("/?q=math+poems")
    assert "No run has “math poems” in its name" in nothing
    assert "Show all 2" in nothing


def test_many_runs_stand_on_several_pages_and_are_all_filtered(viewed):
    for number in range(130):
        viewed.run("math", start=f"2026-01-31_{number:03d}")
    first, rest = viewed.page("/"), viewed.page("/?from=100")
    assert "130 runs" in first and "showing 1 to 100 of 130 runs" in first
    assert "showing 101 to 130 of 130 runs" in rest
    starts = {f"2026-01-31_{number:03d}" for number in range(130)}
    assert {start for start in starts if start in first} == starts - {
        s for s in starts if s in rest
    }
    assert "10 of 130 runs" in viewed.page("/?q=_12")


def test_chosen_runs_lead_to_what_shows_them_together(viewed):
    for name in "abc":
        viewed.run(name)
    a, b, c = (f"{name}/{FIRST}" for name in "abc")

    def leads_to(do: str, *names: str) -> str:
        chosen = "&".join(f"run={name}" for name in names)
        answer = viewed.at(f"/chosen?{chosen}&do={do}")
        assert answer.status_code == 303
        return answer.headers["location"]

    assert leads_to("curves", a, b, c) == run_at(a, **{"with": [b, c]})
    assert leads_to("settings", a, b) == part_of(a, "config", **{"with": b})
    assert leads_to("tasks", a, b).startswith("/compare?")
    assert "Choose two runs or more" in viewed.page(leads_to("curves", a))


# one run


def test_a_run_begins_with_whether_it_is_better_and_how_sure_that_is(viewed):
    root = viewed.run()
    measure(root, *VALIDATED)
    configure(root, "astuner:\n  rollout:\n    val_kwargs:\n      num_repeat: 1\n")
    said = viewed.page(run_at(NAME))
    assert "0.16 → 0.86 of 88 validation tasks solved 95% interval 0.78 to 0.92" in said
    assert "Better than at step 0: the intervals do not overlap." in said
    drawn = viewed.charts(run_at(NAME))["validation"]["lines"][0]
    assert drawn["steps"] == [0, 2]
    assert (drawn["values"], drawn["low"]) == ([0.16, 0.86], [0.1, 0.78])


def test_a_run_without_a_step_says_that_curves_will_come(viewed):
    viewed.run()
    said = viewed.page(run_at(NAME))
    assert "No step has ended yet" in said
    assert viewed.charts(run_at(NAME))["validation"]["lines"][0]["steps"] == []


def test_a_run_that_ended_before_its_first_step_promises_no_curves(viewed):
    root = viewed.run()
    tell(root, {"event": "started"}, {"event": "ended", "exit_code": 1, "error": None})
    said = viewed.page(run_at(NAME))
    assert "No step was trained" in said and "yet" not in said


def test_a_run_that_trains_nothing_says_what_came_of_its_episodes(viewed):
    root = viewed.run()
    tell(root, {"event": "started", "backbone": "debug"}, {"event": "ended", "exit_code": 0})
    add(root, "step_000001.jsonl", record(), record("step1-0-1", reward=None, attempt=1))
    said = viewed.page(run_at(NAME))
    assert "1 of 2 episodes solved, 1 failed The debug backbone trains nothing." in said
    assert f'href="{part_of(NAME, "steps", 1)}">step 1</a>' in viewed.at(run_at(NAME)).text


def test_a_name_of_a_metric_may_be_typed_as_it_is(viewed):
    measure(viewed.run(), *VALIDATED)
    answer = viewed.at(f"{run_at(NAME)}/metrics/reward/mean")
    assert answer.status_code == 200 and "reward/mean" in answer.text


def test_null_nan_and_new_names_are_shown_for_what_they_are(viewed):
    root = viewed.run()
    measure(
        root,
        {"step": 1, "reward/mean": None, "train/loss": float("nan"), "my/new": 3, HOSTILE: 4},
        {"step": 2, "reward/mean": 0.5, "train/loss": 1.0, "my/new": "text", "..": 1},
    )
    with (root / "metrics.jsonl").open("a") as file:
        file.write('not json\n{"step": 3, "reward/mean": 0.7}\n{"step": 4, "torn')
    charts = viewed.charts(run_at(NAME))
    assert charts["reward"]["lines"][0]["values"] == [None, 0.5, 0.7]
    said = viewed.page(run_at(NAME))
    assert "train/loss is not a finite number at step 1." in said
    assert "my/new" in said
    assert HOSTILE not in viewed.at(run_at(NAME)).text
    for name in ("my/new", "..", HOSTILE):
        page = viewed.at(part_of(NAME, "metrics", name))
        assert page.status_code == 200
        assert HOSTILE not in page.text


def test_what_a_detector_found_is_said_and_marked_at_its_step(viewed):
    root = viewed.run()
    measure(root, *VALIDATED)
    finding = {"event": "finding", "step": 2, "detector": "entropy", "stops": False}
    tell(root, {"event": "started"}, finding | {"message": f"step 2: it fell {HOSTILE}"})
    said = viewed.page(run_at(NAME))
    assert "Step 2 , entropy: it fell &lt;img" in said
    assert "found at step 2" in said
    assert HOSTILE not in viewed.at(run_at(NAME)).text
    (mark,) = viewed.charts(run_at(NAME))["entropy"]["marks"]
    assert mark == [2, f"step 2: it fell {HOSTILE}", False]
    assert "it fell" in viewed.page(part_of(NAME, "metrics", "train/entropy"))


def test_failed_episodes_are_listed_by_cause(viewed):
    root = viewed.run()
    measure(root, {"step": 1, "rollout/failed_episodes": 2, "rollout/episodes": 3})
    add(
        root,
        "step_000001.jsonl",
        record("step1-0-0", attempt=0, reward=None),
        record("step1-0-1", attempt=1, reward=None),
        record("step1-0-2", attempt=2, reward=1.0),
    )
    text = viewed.page(run_at(NAME))
    assert "2 failed episodes · all of them" in text
    assert "2 WorkflowError: boom 1 step1-0-0" in text


def test_the_tasks_that_changed_most_and_least_are_listed(viewed):
    root = viewed.run()
    for step, rewards in ((0, (0.0,) * 9), (5, (1.0,) * 7 + (0.0, 0.0))):
        records = [
            record(f"validation{step}-{task}-0", task_id=f"t{task}", reward=reward,
                   said=(f"Question {task}?", "x"), step=step, is_validation=True)
            for task, reward in enumerate(rewards)
        ]  # fmt: skip
        add(root, f"validation_{step:06d}.jsonl", *records)
    said = viewed.page(run_at(NAME))
    assert "Tasks that changed most, and least" in said
    assert "Question 0? reward 0 validation 0 solved validation 5" in said
    assert "Question 8? reward 0 validation 0 reward 0 validation 5" in said
    assert "Question 6?" not in said


def test_other_runs_are_laid_over_a_run_and_named(viewed):
    for start in (FIRST, SECOND):
        measure(viewed.run(start=start), *VALIDATED)
    other = f"math/{SECOND}"
    address = run_at(NAME, **{"with": other})
    lines = viewed.charts(address)["reward"]["lines"]
    assert [(line["label"], line["run"]) for line in lines] == [("09:30:00", 0), ("10:00:00", 1)]
    assert f'value="{other}" checked' in viewed.at(address).text
    text = viewed.at(part_of(NAME, "metrics", "reward/mean", format="csv", **{"with": other})).text
    assert text.splitlines()[0] == "step,reward/mean (09:30:00),reward/mean (10:00:00)"


def test_many_runs_are_told_apart_by_a_table_and_not_by_their_lines_ends(viewed):
    names = [f"run_{number}" for number in range(7)]
    for name in names:
        measure(viewed.run(name), *VALIDATED)
    first, *others = (f"{name}/{FIRST}" for name in names)
    address = run_at(first, **{"with": others})
    assert viewed.page(address).count("0.16 → 0.86 of 88 validation") == len(names)
    assert "data-near" in viewed.at(address).text
    assert "data-near" not in viewed.at(run_at(first, **{"with": others[:1]})).text


def test_many_steps_stand_in_hundreds_with_the_newest_open(viewed):
    root = viewed.run()
    for step in range(1, 202):
        add(root, f"step_{step:06}.jsonl", record(f"step{step}-0-0", step=step))
    text = viewed.at(run_at(NAME)).text
    hundreds = re.findall(r'<details class="hundred"[^>]*?( open)?><summary>(.*?)<', text)
    assert hundreds == [("", "1 to 100"), ("", "101 to 200"), (" open", "201 to 201")]
    assert all(f'"{step_at(NAME, step)}"' in text for step in range(1, 202))


def test_a_small_chart_has_its_values_one_step_away(viewed):
    measure(viewed.run(), *VALIDATED)
    values = part_of(NAME, "metrics", "train/entropy", format="csv")
    assert f'href="{values}" download' in viewed.at(run_at(NAME)).text


# a metric


def test_the_csv_of_a_metric_is_what_the_file_has(viewed):
    root = viewed.run()
    values = [0.1 + 0.2, None, 1e-12, float("nan"), -3]
    measure(root, *({"step": i, "train/loss": value} for i, value in enumerate(values)))
    answer = viewed.at(part_of(NAME, "metrics", "train/loss", format="csv"))
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert answer.headers["content-disposition"] == (
        f'attachment; filename="math-{FIRST}-train-loss.csv"'
    )
    head, *rows = csv.reader(io.StringIO(answer.text))
    assert head == ["step", "train/loss"]
    assert [float(value) if value else None for _, value in rows] == [
        0.1 + 0.2, None, 1e-12, None, -3.0,
    ]  # fmt: skip


def test_the_csv_of_a_metric_with_an_interval_has_its_ends(viewed):
    measure(viewed.run(), *VALIDATED)
    name = "validation/success_rate"
    text = viewed.at(part_of(NAME, "metrics", name, format="csv")).text
    assert text.splitlines() == [
        f"step,{name},{name} low,{name} high", "0,0.16,0.1,0.25", "2,0.86,0.78,0.92",
    ]  # fmt: skip


def test_the_csv_of_all_metrics_has_a_column_each_and_no_formula(viewed):
    measure(viewed.run(), {"step": 1, "reward/mean": 0.5, "=HYPERLINK(1)": 1})
    text = viewed.at(part_of(NAME, "metrics", format="csv")).text
    assert text.splitlines() == ["step,'=HYPERLINK(1),reward/mean", "1,1.0,0.5"]


def test_a_metric_that_the_run_does_not_have_is_said(viewed):
    measure(viewed.run(), *VALIDATED)
    answer = viewed.at(part_of(NAME, "metrics", "train/other"))
    assert answer.status_code == 404
    assert "no metric of that name" in answer.text


def test_metrics_are_walked_by_name(viewed):
    measure(viewed.run(), {"step": 1, "a/x": 1, "b/x": 2, "c/x": 3})
    text = viewed.at(part_of(NAME, "metrics", "b/x")).text
    assert f'href="{part_of(NAME, "metrics", "a/x")}" data-key="k"' in text
    assert f'href="{part_of(NAME, "metrics", "c/x")}" data-key="j"' in text


# settings


def test_the_settings_are_shown_as_they_were_used(viewed):
    root = viewed.run()
    configure(root, f"astuner:\n  backbone: local\n  model:\n    path: '{HOSTILE}'\n")
    text = viewed.at(part_of(NAME, "config")).text
    assert "2 settings" in text
    assert "backbone: local" in text
    assert HOSTILE not in text


def test_only_what_differs_between_two_runs_is_shown(viewed):
    configure(viewed.run(), "astuner:\n  lr: 1e-5\n  seed: 1\n")
    configure(viewed.run(start=SECOND), "astuner:\n  lr: 2e-5\n  seed: 1\n  extra: true\n")
    said = viewed.page(part_of(NAME, "config", **{"with": f"math/{SECOND}"}))
    assert "2 of 3 settings differ" in said
    assert "astuner.extra not there true" in said
    assert "astuner.lr 1e-5 2e-5" in said
    assert "astuner.seed" not in said


def test_two_starts_of_one_run_are_compared(viewed):
    root = viewed.run()
    for steps in (10, 20):
        configure(root, f"astuner:\n  steps: {steps}\n  seed: 1\n")
    assert "steps: 20" in viewed.page(part_of(NAME, "config"))
    assert "steps: 10" in viewed.page(part_of(NAME, "config", of=1))
    said = viewed.page(part_of(NAME, "config", of=1, against=2))
    assert "1 of 2 settings differs" in said
    assert "astuner.steps 10 20" in said


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "No settings"),
        ("- no\n- sections\n", "it holds no sections of settings"),
        ("a: [1\n", "cannot be read as YAML"),
    ],
)
def test_settings_that_are_not_there_or_not_readable_are_said(viewed, text, says):
    root = viewed.run()
    if text is not None:
        configure(root, text)
    assert says in viewed.page(part_of(NAME, "config"))
    assert "No step has ended yet" in viewed.page(run_at(NAME))


@pytest.mark.parametrize(
    "value",
    [1e308, -1e308, pytest.param(10**400, id="huge"), 5e-324, True, "text", [1], {"a": 1}],
)
def test_a_run_whose_numbers_are_out_of_all_bounds_is_shown(viewed, value):
    root = viewed.run()
    names = ("reward/mean", "rollout/context_overflows", "rollout/empty_replies", "train/entropy")
    names += ("rollout/flat_groups", "rollout/episodes", "train/logprob_gap_mean", "step/seconds")
    measure(root, *({"step": step} | dict.fromkeys(names, value) for step in range(1, 9)))
    configure(root, f"astuner:\n  data:\n    train_batch_size: {'9' * 400}\n")
    assert "1 run" in viewed.page("/")
    assert "step 8" in viewed.page(run_at(NAME))


# live


def test_what_pages_ask_changes_with_every_line_that_a_run_writes(viewed):
    root = viewed.run()
    seen = [viewed.at(part_of(NAME, "live")).text, viewed.at("/live").text]
    assert [viewed.at(part_of(NAME, "live")).text, viewed.at("/live").text] == seen
    measure(root, {"step": 1, "reward/mean": 0.5})
    now = [viewed.at(part_of(NAME, "live")).text, viewed.at("/live").text]
    assert all(new != old for new, old in zip(now, seen, strict=True))
    add(root, "step_000001.jsonl", record())
    of_all_steps, of_step = part_of(NAME, "live"), part_of(NAME, "live", step=2)
    assert viewed.at(of_all_steps).json()[0]["episodes"][0] == 1
    assert viewed.at(of_step).json()[0]["episodes"] == [0, 0]


def test_a_run_by_a_hostile_name_is_a_run(viewed):
    name = f"<b>{HOSTILE.replace('/', '')}"
    measure(viewed.run(name), {"step": 1, "reward/mean": 0.5})
    for address in ("/", run_at(f"{name}/{FIRST}"), part_of(f"{name}/{FIRST}", "config")):
        answer = viewed.at(address)
        assert answer.status_code == 200
        assert "<img" not in answer.text
        assert "<b>&" not in answer.text
