"""Two machines for Ray on one: each has its own network, processes and Ray folder.

A node ends with its `Machine`, whole and at once, as when the power fails.
"""

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
HEAD, WORKER = "192.0.2.1", "192.0.2.2"
ADDRESS = f"{HEAD}:6379"


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
        self._environment = {"RAY_TMPDIR": str(ray_dir), "PYTHONPATH": str(ROOT)}
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

    def run(
        self, *command: str, cwd: Path = Path("/"), **variables: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["nsenter", "-t", str(self.pid), "-n", "-m", "-p", f"--wd={cwd}", *command],
            env={**os.environ, **self._environment, **variables},
            capture_output=True,
            text=True,
            timeout=120,
        )

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


def connect(head: Machine, worker: Machine) -> None:
    """Lay a cable between the two."""
    ends = (f"astun{head.pid}", f"astun{worker.pid}")
    subprocess.run(
        ["ip", "link", "add", ends[0], "type", "veth", "peer", "name", ends[1]], check=True
    )
    for machine, end, address in zip((head, worker), ends, (HEAD, WORKER), strict=True):
        subprocess.run(["ip", "link", "set", end, "netns", str(machine.pid)], check=True)
        steps = f"ip addr add {address}/24 dev {end} && ip link set {end} up"
        machine.run("sh", "-ec", f"{steps} && ip route add default dev {end}").check_returncode()


def start_ray(machine: Machine, *arguments: str, variables: Mapping[str, str]) -> None:
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", *arguments]
    done = machine.run(*command, "--num-cpus=4", "--num-gpus=1", **variables)
    assert done.returncode == 0, done.stderr[-3000:]
