"""Looks at both nodes as a run does.

Arguments: `copied` or `bare`, the model, and the folder of the engine's state.
"""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from astuner.backbone.cluster.node_check import check_nodes
from astuner.backbone.cluster.ray_cluster import ray_cluster
from astuner.backbone.cluster.user_files import with_user_files
from astuner.backbone.worker_run import WorkerRun
from astuner.config.load import load_config
from astuner.errors import AstunerError
from astuner.run_dir import RunDir
from tests.ray.two_nodes import ADDRESS

here, logs = Path.cwd(), Path.cwd() / "launcher_record" / "logs"
loaded = load_config(here / "flow.yaml", [], backbone="verl")
run: Any = SimpleNamespace(
    settings=loaded.settings,
    config=loaded.config,
    explicit_keys=loaded.explicit_keys,
    run_dir=RunDir(root=here / "launcher_record"),
    search_dirs=(here,),
    home=here,
)
num_nodes = 2 if sys.argv[1] == "copied" else 1
env = with_user_files({"working_dir": None}, folder=here, num_nodes=num_nodes)
try:
    with ray_cluster(
        with_ray=False,
        address=ADDRESS,
        logs_dir=logs,
        say=lambda _: None,
        runtime_env=env,
        num_nodes=2,
    ):
        check_nodes(
            WorkerRun.of(run),
            model=sys.argv[2],
            state_dir=Path(sys.argv[3]),
            num_nodes=2,
            gpus_per_node=1,
        )
        sys.stdout.write("fit\n")
except AstunerError as error:
    sys.stdout.write(f"{error}\n")
