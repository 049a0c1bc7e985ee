"""Enters a cluster as a run does, says so, and leaves at a line of input.

Arguments: a folder for logs, then --with-ray or --ray-address=HOST:PORT or neither, and
--num-gpus=N and --card=CARD of a head that is started. With a card it says next what two processes
that have a GPU see of it, and one that has none.
"""

import os
import sys
from pathlib import Path

import ray

from astuner.backbone.cluster.ray_cluster import ray_cluster
from astuner.backbone.cluster.ray_own_head import HeadResources
from astuner.errors import AstunerError

folder, *flags = sys.argv[1:]


def given(flag: str) -> str | None:
    return next((f.partition("=")[2] for f in flags if f.startswith(f"{flag}=")), None)


class Looking:
    def seen(self) -> str | None:
        return os.environ.get("CUDA_VISIBLE_DEVICES")


def what_processes_see() -> list[str | None]:
    make = ray.remote(num_cpus=0)(Looking)
    actors = [make.options(num_gpus=num_gpus).remote() for num_gpus in (1, 1, 0)]
    return ray.get([actor.seen.remote() for actor in actors], timeout=60)


num_gpus, card = given("--num-gpus"), given("--card")
try:
    with ray_cluster(
        with_ray="--with-ray" in flags,
        address=given("--ray-address"),
        logs_dir=Path(folder),
        say=lambda text: sys.stderr.write(f"{text}\n"),
        head_resources=HeadResources(num_gpus=int(num_gpus) if num_gpus else None, card=card),
    ) as cluster:
        sys.stdout.write(f"in {cluster.address}\n")
        if card is not None:
            sys.stdout.write(f"{what_processes_see()}\n")
        sys.stdout.flush()
        sys.stdin.readline()
except AstunerError as error:
    sys.stdout.write(f"{type(error).__name__}: {error}\n")
