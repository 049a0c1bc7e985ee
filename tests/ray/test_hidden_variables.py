"""Variables that hold secrets reach every process of a run, and no log of Ray's."""

import os
from pathlib import Path

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.timeout(240), pytest.mark.filterwarnings("ignore")]
ray = pytest.importorskip("ray", reason="Ray is not installed")

from astuner.backbone.cluster.hidden_variables import with_hidden_variables  # noqa: E402
from tests.ray.local_cluster import local_cluster  # noqa: E402

TOKEN = "not-for-any-log"


class Looking:
    def seen(self) -> list[str | None]:
        return [os.environ.get(name) for name in ("HF_TOKEN", "HF_HUB_OFFLINE")]

    def seen_by_own(self) -> list[str | None]:
        """By an actor that this one makes, with variables of its own, as Trinity's runners are."""
        own = {"env_vars": {"MORE": "1"}}
        actor = ray.remote(num_cpus=0)(Looking).options(runtime_env=own).remote()
        return ray.get(actor.seen.remote())


def test_a_token_reaches_all_processes_and_lies_in_no_file_of_ray() -> None:
    variables = {"HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "1"}
    with local_cluster(with_hidden_variables({"env_vars": variables})):
        actor = ray.remote(num_cpus=0)(Looking).remote()
        asked = [actor.seen.remote(), actor.seen_by_own.remote()]
        assert ray.get(asked, timeout=120) == [[TOKEN, "1"], [TOKEN, "1"]]
        session = Path(ray._private.worker._global_node.get_session_dir_path())
    logs = [path for path in session.joinpath("logs").rglob("*") if path.is_file()]
    assert any(b"HF_HUB_OFFLINE" in path.read_bytes() for path in logs)
    assert [path.name for path in logs if TOKEN.encode() in path.read_bytes()] == []
