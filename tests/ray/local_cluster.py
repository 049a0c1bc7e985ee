"""A cluster of this process, for actors of a test.

Another lane of tests may start runs that join what stands on this machine, so it is marked as the
head of a run, which is passed over.
"""

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

from astuner.backbone.cluster.ray_head import MARK

ROOT = Path(__file__).parents[2]


@contextlib.contextmanager
def local_cluster(runtime_env: Mapping[str, Any] | None = None) -> Iterator[None]:
    """With one processor; its workers import this checkout unless `runtime_env` says otherwise."""
    import ray

    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    with patch.dict(os.environ, {MARK: "tests"}):
        ray.init(
            address="local",
            num_cpus=1,
            include_dashboard=False,
            runtime_env=runtime_env or {"env_vars": {"PYTHONPATH": path}},
        )
    try:
        yield
    finally:
        ray.shutdown()
