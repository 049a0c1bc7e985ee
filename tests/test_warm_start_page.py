"""The page of a warm start shows what warm_start.jsonl says."""

import json
import re

import pytest

pytest.importorskip("uplot")

from astuner.run_dir import append_json_lines
from tests.test_viewer_runs import FIRST, NAME, Viewed

AT = f"/runs/math/{FIRST}"
LINES = [
    {"step": 0, "warm_start/validation_loss": 3.0},
    {"step": 1, "warm_start/loss": 2.5, "warm_start/grad_norm": 1.0},
    {"step": 2, "warm_start/loss": 1.5, "warm_start/validation_loss": 1.25},
]


@pytest.fixture
def viewed(tmp_path):
    return Viewed(tmp_path)


def charts(html: str) -> dict:
    found = re.search(r'id="charts"[^>]*>(.*?)</script>', html, re.S)
    assert found is not None
    return json.loads(found[1])["charts"]


def test_the_page_of_a_run_leads_to_the_curves_of_its_warm_start(viewed):
    append_json_lines(viewed.run() / "warm_start.jsonl", LINES)
    page = viewed.at(AT).text
    assert "held-out loss 3.000 → 1.250 in 2 updates" in page
    assert f'href="{AT}/warm_start"' in page
    drawn = charts(viewed.at(f"{AT}/warm_start").text)
    assert set(drawn) == {"loss", "grad_norm"}
    learned, held_out = drawn["loss"]["lines"]
    assert (learned["steps"], learned["values"]) == ([1, 2], [2.5, 1.5])
    assert (held_out["steps"], held_out["values"]) == ([0, 2], [3.0, 1.25])
    assert [learned["label"], held_out["label"]] == ["learned", "held out"]


def test_a_run_without_a_warm_start_says_nothing_of_one(viewed):
    viewed.run()
    assert "warm start" not in viewed.at(AT).text
    assert viewed.at(f"{AT}/warm_start").status_code == 404


def test_a_warm_start_is_shown_though_its_file_is_odd(viewed):
    path = viewed.run() / "warm_start.jsonl"
    append_json_lines(path, [*LINES, {"step": 3, "warm_start/loss": "<b>"}, {"warm_start/loss": 1}])
    answer = viewed.at(f"{AT}/warm_start")
    assert answer.status_code == 200 and "<b>&lt;" not in answer.text
    assert "1 lines that name no step" in answer.text
    assert NAME.partition("/")[0] in answer.text
