"""A reader of the page about rubrics tunes with what stands there, and nothing else."""

import json
import re
from pathlib import Path

import pytest

from astuner.config import load_config
from astuner.run_dir import read_json_lines
from tests.llm_server import says, serving
from tests.rubric_models import prompt_of, run_dir_of, scored

pytest.importorskip("openai")

PAGE = (Path(__file__).parent.parent / "docs" / "judges.md").read_text()
FILES = re.findall(r"in `(replies/[\w.]+)`.*?```\w+\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


def test_the_files_of_the_page_are_a_run_whose_answers_are_graded(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("replies").mkdir()
    for name, content in FILES:
        Path(name).write_text(content)
    Path("replies/questions.jsonl").write_text(json.dumps({"main_query": "It is late."}) + "\n")

    def answer(body):
        is_graded = prompt_of(body).startswith("You grade one answer")
        return scored([4, 2, 0], "because") if is_graded else says("Please write to us.")

    with serving(answer) as server:
        loaded = load_config(
            Path("replies/replies.yaml"),
            [
                f"astuner.llm.base_url='{server.base_url}'",
                f"astuner.debug.openai_base_url='{server.base_url}'",
                "astuner.rollout.num_repeat=1",
            ],
            backbone="debug",
        )
        run_dir = run_dir_of(loaded)
    (row,) = read_json_lines(run_dir.step_files()[0])
    assert row["verdict"]["reward"] == pytest.approx((3 * 1 + 2 * 0.5 + 1 * 0) / 6)
    assert row["verdict"]["parts"] == {"solves": 1.0, "honest": 0.5, "brief": 0.0}
    assert row["verdict"]["note"].startswith("solves 4/4: because\nhonest 2/4: because\n")
