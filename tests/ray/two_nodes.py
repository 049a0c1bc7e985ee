"""Two machines for Ray on one: each has its own network, processes and Ray folder.

A node ends with its `Machine`, whole and at once, as when the power fails.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from astuner.backbone.cluster.ray_head import NO_SPARE_WORKERS

NEEDS_MACHINES = pytest.mark.skipif(
    os.geteuid() != 0 or not all(map(shutil.which, ("ip", "unshare", "nsenter"))),
    reason="machines in namespaces need root and the commands ip, unshare and nsenter",
)

ROOT = Path(__file__).parents[2]
HEAD, WORKER = "192.0.2.1", "192.0.2.2"
ADDRESS = f"{HEAD}:6379"
CARD = "cable"
"""The network interface of each."""


class Machine:
    """Runs commands where `hidden` folders are empty and RAY_TMPDIR is its own."""

    def __init__(self, folder: Path, *, ray_dir: Path, hidden: Sequence[Path] = ()) -> None:
        own, empty = folder / "ray", folder / "empty"
        for made in (own, empty, ray_dir):
            made.mkdir(parents=True, exist_ok=True)
        steps = [
            "mount --make-rprivate /",
            f"mount --bind {own} {ray_dir}",
            *(f"mount --bind {empty} {path}" for path in hidden),
            "ip link set lo up",
            "exec sleep 900",
        ]
        kinds = ["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        self._process = subprocess.Popen(["unshare", *kinds, "sh", "-ec", "; ".join(steps)])
        own_variables = {"RAY_TMPDIR": str(ray_dir), "PYTHONPATH": str(ROOT)}
        self._environment = {**NO_SPARE_WORKERS, **own_variables}
        self.pid = self._first_process()

    def _first_process(self) -> int:
        outer = self._process.pid
        for _ in range(100):
            time.sleep(0.1)
            if self._process.poll() is not None:
                break
            found = Path(f"/proc/{outer}/task/{outer}/children").read_text().split()
            if found and Path(f"/proc/{found[0]}/cmdline").read_bytes().startswith(b"sleep"):
                return int(found[0])
        raise OSError("a namespace of network, mounts and processes cannot be made here")

    def start(
        self, *command: str, cwd: Path = Path("/"), **variables: str
    ) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["nsenter", "-t", str(self.pid), "-n", "-m", "-p", f"--wd={cwd}", *command],
            env={**os.environ, **self._environment, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(
        self, *command: str, cwd: Path = Path("/"), seconds: float = 120.0, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        with self.start(*command, cwd=cwd, **variables) as process:
            try:
                out, err = process.communicate(timeout=seconds)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


def make_switch(head: Machine) -> None:
    """The network of the head, which stays when a machine at its other end goes."""
    _set_up(head, f"ip link add {CARD} type bridge", *_with_address(HEAD))


def connect(head: Machine, worker: Machine) -> None:
    """Lay a cable from the head's switch to the worker."""
    ends = (f"port{worker.pid}", f"card{worker.pid}")
    pair = ["ip", "link", "add", ends[0], "type", "veth", "peer", "name", ends[1]]
    subprocess.run(pair, check=True)
    for machine, end in zip((head, worker), ends, strict=True):
        subprocess.run(["ip", "link", "set", end, "netns", str(machine.pid)], check=True)
    _set_up(head, f"ip link set {ends[0]} master {CARD} up")
    _set_up(worker, f"ip link set {ends[1]} name {CARD}", *_with_address(WORKER))


def _with_address(address: str) -> tuple[str, ...]:
    return (
        f"ip addr add {address}/24 dev {CARD}",
        f"ip link set {CARD} up",
        f"ip route add default dev {CARD}",
    )


def _set_up(machine: Machine, *steps: str) -> None:
    machine.run("sh", "-ec", " && ".join(steps)).check_returncode()


def start_head(machine: Machine, **variables: str) -> None:
    alone = ("--include-dashboard=false", "--disable-usage-stats")
    _start_ray(machine, "--head", f"--node-ip-address={HEAD}", *alone, **variables)


def start_worker(machine: Machine, **variables: str) -> None:
    _start_ray(machine, f"--address={ADDRESS}", **variables)


def _start_ray(machine: Machine, *arguments: str, **variables: str) -> None:
    """Ray counts processors and a GPU that are not there; verl's bundles ask for them."""
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", *arguments]
    done = machine.run(*command, "--num-cpus=8", "--num-gpus=1", **variables)
    assert done.returncode == 0, done.stderr[-3000:]
