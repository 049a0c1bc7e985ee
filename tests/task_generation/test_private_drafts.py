"""Personal data of a draft is written down nowhere, whichever gate the draft comes to."""

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest
import yaml

from astuner.cli.main import main
from tests.llm_server import Reply, says, serving

pytest.importorskip("detect_secrets")
pytest.importorskip("phonenumbers")

SECTION = "astuner.task_reader.data_generation"
ADDRESS = "jane.doe@acme.org"
SENTENCE = f"Until noon the pump is watched by Jane Doe, {ADDRESS}, who knows it best."
KINDS = ("sound", "not quoted", "pointing", "unanswerable", "no form", "refusal")


def writes_private_drafts(body: dict[str, Any]) -> Reply:
    """Each kind of fault in turn of the seeds, and the address in everything."""
    asked = body["messages"][0]["content"]
    if "Write one" not in asked:
        said = f"Jane Doe, {ADDRESS}"
        is_answered = "unanswerable)" not in asked
        return says(json.dumps({"reasoning": said, "is_answered": is_answered, "answer": said}))
    kind = Random(body["seed"]).choice(KINDS)
    if kind == "no form":
        return says(json.dumps({"question": [ADDRESS]}))
    draft = {
        "evidence": SENTENCE.replace("noon", "night") if kind == "not quoted" else SENTENCE,
        "question": f"Who ({body['seed']}, {kind}), as {ADDRESS} says, watches it?",
        "answer": f"Jane Doe, {ADDRESS}",
    }
    if kind == "pointing":
        draft["question"] = f"Who watches it according to the passage above, and {ADDRESS}?"
    if kind == "refusal":
        draft["question"] = f"I'm sorry, {ADDRESS}, but I can't help with that."
    return says(json.dumps(draft))


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").mkdir()
    for number in range(3):
        (tmp_path / "docs" / f"{number}.md").write_text(f"# Pump {number}\n\n{SENTENCE}\n")
    return tmp_path


def generate(*arguments: str) -> tuple[int, list[dict[str, Any]], list[dict[str, Any]]]:
    """The exit code, the tasks and the rejections."""
    with serving(writes_private_drafts) as server:
        reader = {
            "type": "data_generation",
            "data_generation": {"document_reader": {"document_path": ["docs"]}, "task_num": 8},
        }
        llm = {"base_url": server.base_url, "model": "m"}
        text = yaml.safe_dump({"astuner": {"task_reader": reader, "llm": llm}})
        Path("conf.yaml").write_text(text)
        code = main(["generate", "--conf", "conf.yaml", *arguments])
    rows = []
    for name in ("train", "rejected"):
        path = Path("generated_tasks/conf") / f"{name}.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        rows.append([json.loads(line) for line in lines])
    return code, *rows


def written() -> str:
    """All files of the set that hold drafts."""
    apart = ("answers", "chunks.jsonl")
    files = [path for path in Path("generated_tasks/conf").iterdir() if path.name not in apart]
    return "\n".join(path.read_text() for path in files if path.is_file())


def test_drafts_with_personal_data_are_written_masked_whoever_refuses_them(folder, capsys):
    code, tasks, rejected = generate()
    assert (code, tasks) == (1, [])
    assert {row["gate"] for row in rejected} == {
        "form",
        "evidence",
        "self_contained",
        "personal_data",
    }
    assert any(row["question"] and "[e-mail address]" in row["question"] for row in rejected)
    captured = capsys.readouterr()
    assert ADDRESS not in written() + captured.out + captured.err


def test_a_preview_shows_no_personal_data_of_a_draft(folder, capsys):
    generate("--preview", "12", "--json")
    (shown,) = json.loads(capsys.readouterr().out)
    drafts = [{**draft, "turn": None} for draft in shown["drafts"]]
    assert "[e-mail address]" in json.dumps(drafts) and ADDRESS not in json.dumps(drafts)


def test_masked_tasks_are_solved_before_they_are_masked(folder, capsys):
    code, tasks, rejected = generate(f"{SECTION}.gates.personal_data=mask")
    assert code == 0 and tasks
    for task in tasks:
        assert task["metadata"]["answer"] == "Jane Doe, [e-mail address]"
        assert task["metadata"]["agreement"] == 1.0
    assert "answerable" in {row["gate"] for row in rejected}
    captured = capsys.readouterr()
    assert ADDRESS not in written() + captured.out + captured.err


def test_what_is_to_be_kept_is_kept_also_in_rejections(folder):
    code, tasks, rejected = generate(f"{SECTION}.gates.personal_data=keep")
    assert code == 0 and ADDRESS in tasks[0]["metadata"]["answer"]
    assert all(ADDRESS in row["evidence"] for row in rejected if row["gate"] == "self_contained")
