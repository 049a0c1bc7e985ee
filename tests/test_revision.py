"""Models and data sets of the hub can be of one revision."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from astuner.backbone.assemble import find_model
from astuner.config.load import load_mapping
from astuner.errors import ConfigError
from astuner.run_dir import RunDir
from astuner.task_reader.huggingface_dat_repo import HuggingfaceDatRepoReader
from tests.runs import make_run

COMMIT = "12fd25f77366fa6b3b4b768ec3050bf629380bac"
AGENTS = Path(__file__).parent / "agents"


def find(folder: Path, **model: str) -> str:
    content = {
        "model": model,
        "rollout": {"agentscope_workflow": f"{AGENTS}/adder.py->AdderWorkflow"},
        "task_reader": {"type": "random_dummy"},
    }
    loaded = load_mapping({"astuner": content}, name="test")
    return find_model(make_run(loaded, RunDir(root=folder)))


def test_a_revision_that_the_cache_holds_is_its_folder_there(tmp_path: Path) -> None:
    """In a fresh interpreter, since the library reads where its cache is when it is imported."""
    snapshot = tmp_path / "models--owner--name" / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    code = "from astuner.models.hub import fetch_revision; "
    code += f"print(fetch_revision('owner/name', '{COMMIT}'))"
    environment = {**os.environ, "HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == str(snapshot), done.stderr


def test_a_revision_that_cannot_be_had_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("huggingface_hub")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match=rf"no owner/absent in revision '{COMMIT}'"):
        find(tmp_path, path="owner/absent", revision=COMMIT)


def test_a_folder_has_no_revision(tmp_path: Path) -> None:
    assert find(tmp_path, path=str(tmp_path)) == str(tmp_path)
    with pytest.raises(ConfigError, match=r"model\.revision: .* is a folder"):
        find(tmp_path, path=str(tmp_path), revision=COMMIT)


def test_a_data_set_is_asked_for_in_its_revision() -> None:
    asked = []

    def load_dataset(path: str, config: str | None, **options: str) -> list[dict[str, str]]:
        asked.append((path, config, options))
        return [{"question": "1 + 1?", "answer": "2"}]

    reader = HuggingfaceDatRepoReader(
        dataset_path="owner/name/main",
        training_split="train",
        revision=COMMIT,
        load_dataset=load_dataset,
    )
    assert len(reader.get_training_tasks()) == 1
    options = {"split": "train", "revision": COMMIT}
    assert asked == [("hf://datasets/owner/name", "main", options)]


def test_a_folder_of_data_has_no_revision(tmp_path: Path) -> None:
    reader = HuggingfaceDatRepoReader(
        dataset_path=str(tmp_path), training_split="train", revision=COMMIT
    )
    with pytest.raises(ConfigError, match="is a folder and has no revisions"):
        reader.get_training_tasks()
