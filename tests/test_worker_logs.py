"""What workers print reaches files of the run directory, as long as that is there."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from astuner.backbone.cluster.worker_logs import WorkerLogs

BATCH: dict[str, Any] = {"ip": "10.0.0.1", "pid": "7", "actor_name": "Worker", "lines": ["hello"]}


def test_each_worker_has_a_file(tmp_path: Path) -> None:
    logs = WorkerLogs(tmp_path / "logs")
    logs.write(BATCH)
    logs.write(BATCH | {"lines": ["again"]})
    assert logs.tail(num_lines=5) == {"10.0.0.1_Worker_7.log": ["hello", "again"]}


@pytest.mark.parametrize("is_moved", [True, False])
def test_a_run_directory_that_is_gone_is_not_made_again(tmp_path: Path, is_moved: bool) -> None:
    run_dir, session = tmp_path / "run", tmp_path / "session"
    (session / "logs").mkdir(parents=True)
    (session / "logs" / "raylet.out").touch()
    run_dir.mkdir()
    logs = WorkerLogs(run_dir / "logs")
    logs.write(BATCH)
    if is_moved:
        run_dir.rename(tmp_path / "moved")
    else:
        shutil.rmtree(run_dir)
    logs.write(BATCH)
    logs.copy_services(session)
    assert not run_dir.exists()


def test_what_rays_services_wrote_is_copied(tmp_path: Path) -> None:
    (tmp_path / "session" / "logs").mkdir(parents=True)
    (tmp_path / "session" / "logs" / "raylet.out").write_text("here")
    (tmp_path / "run").mkdir()
    logs = WorkerLogs(tmp_path / "run" / "logs")
    logs.copy_services(tmp_path / "session")
    assert (tmp_path / "run" / "logs" / "ray" / "raylet.out").read_text() == "here"
