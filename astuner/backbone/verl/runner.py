"""The actor in which verl's trainer lives: verl's own, with our trainer known by name."""

# verl is installed in a virtual environment of its own:
# pyright: reportMissingImports=false

from typing import Any

import ray
from omegaconf import DictConfig
from verl.trainer.main_ppo import TaskRunnerV1

_TaskRunner: Any = TaskRunnerV1.__ray_actor_class__


@ray.remote(num_cpus=1)
class EpisodeTaskRunner(_TaskRunner):
    """Runs one training; `run` returns at its end."""

    def run(self, config: DictConfig) -> None:
        import astuner.backbone.verl.trainer  # noqa: F401  # registers itself

        super().run(config)
