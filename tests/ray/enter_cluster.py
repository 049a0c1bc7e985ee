"""Enters a cluster as a run does, says so, and leaves at a line of input.

Arguments: a folder for logs, then --with-ray or --ray-address=HOST:PORT or neither.
"""

import sys
from pathlib import Path

from astuner.backbone.cluster.ray_cluster import ray_cluster
from astuner.errors import AstunerError

folder, *flags = sys.argv[1:]
address = next((f.partition("=")[2] for f in flags if f.startswith("--ray-address=")), None)
try:
    with ray_cluster(
        with_ray="--with-ray" in flags,
        address=address,
        logs_dir=Path(folder),
        say=lambda text: sys.stderr.write(f"{text}\n"),
    ) as cluster:
        sys.stdout.write(f"in {cluster.address}\n")
        sys.stdout.flush()
        sys.stdin.readline()
except AstunerError as error:
    sys.stdout.write(f"{type(error).__name__}: {error}\n")
