"""One YAML for all backbones: here those without a cluster; tests/ray has the others."""

import pytest

pytest.importorskip("agentscope")
pytest.importorskip("torch")

from astuner.cli import main
from astuner.run_dir import RunDir, read_json_lines
from tests.tutorial import CONF, as_arguments, make_tutorial


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    return make_tutorial(tmp_path_factory.mktemp("tutorial"))


def run(backbone, folder, settings):
    arguments = ["--conf", str(CONF), f"--backbone={backbone}", "--exp-dir", str(folder)]
    assert main([*arguments, *as_arguments(settings)]) == 0
    found = RunDir.latest(folder, CONF.stem)
    assert found is not None
    return found


def test_the_tutorial_runs_under_debug(settings, tmp_path):
    records = list(read_json_lines(run("debug", tmp_path, settings).episodes_file(1, "train")))
    assert records


def test_the_tutorial_trains_under_local(settings, tmp_path):
    run_dir = run("local", tmp_path, settings)
    (step,) = read_json_lines(run_dir.metrics_file)
    assert step["rollout/episodes"] == 16
    assert step["train/updates"] == 1
    assert run_dir.checkpoint_dir(1).is_dir()
