"""A Ray head on this machine for one run: started, waited for, and ended with all that it started.

The process beside the run that does so is `ray_head.py`.
"""

# Ray is installed in the virtual environments of verl and Trinity only:
# pyright: reportMissingImports=false

import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from astuner.backbone.cluster.ray_find import (
    DEFAULT_PORT,
    FoundCluster,
    clusters_of_this_machine,
    wait_for_grpc,
)
from astuner.backbone.cluster.worker_logs import WorkerLogs
from astuner.errors import BackboneError

logger = logging.getLogger(__name__)

CARDS_VARIABLE = "CUDA_VISIBLE_DEVICES"
START_SECONDS = 90.0
STOP_SECONDS = 25.0

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadResources:
    """What a head that is started here says it has; None: what Ray finds."""

    num_cpus: int | None = None
    num_gpus: int | None = None
    card: str | None = None
    """CUDA_VISIBLE_DEVICES of all processes of the run, where `num_gpus` counts places on one card.
    None: each has the cards that Ray gives it."""


@contextmanager
def own_head(resources: HeadResources, logs: WorkerLogs, say: Say) -> Iterator[FoundCluster]:
    """A Ray head on this machine, until the context is left."""
    import ray

    _make_token()
    host = ray.util.get_node_ip_address()
    port = _free_port(host)
    address = f"{host}:{port}"
    started = time.monotonic()
    log_file = logs.folder / "ray_head.log"
    process = _start(_start_arguments(host, port, resources), _environment(resources), log_file)
    session: Path | None = None
    try:
        _wait_until_started(process, address, log_file)
        session = _newest_session()
        seconds = time.monotonic() - started
        say(f"Ray: started a head at {address} ({seconds:.0f} s); it ends with this run")
        yield FoundCluster(address=address, origin="this machine")
    finally:
        _stop(process, address)
        if session is not None:
            logs.copy_services(session)


def _make_token() -> None:
    """Guard the head by Ray's token, as ray.init does for clusters of its own.

    Ray runs what anybody sends it, and its head listens on all networks. RAY_AUTH_MODE, where it is
    set, is obeyed.
    """
    from ray._private.authentication import authentication_token_setup as setup

    if "RAY_AUTH_MODE" not in os.environ:
        setup._enable_token_auth()
    setup.ensure_token_if_auth_enabled(None, create_token_if_missing=True)


def _start_arguments(host: str, port: int, resources: HeadResources) -> list[str]:
    arguments = [
        f"--node-ip-address={host}",
        f"--port={port}",
        "--include-dashboard=false",
        "--disable-usage-stats",
    ]
    if resources.num_cpus is not None:
        arguments.append(f"--num-cpus={resources.num_cpus}")
    if resources.num_gpus is not None:
        arguments.append(f"--num-gpus={resources.num_gpus}")
    return arguments


def _environment(resources: HeadResources) -> dict[str, str]:
    """Ray refuses more GPUs than CUDA_VISIBLE_DEVICES has entries, and gives out no others."""
    hidden = {CARDS_VARIABLE} if resources.card is not None else set()
    return {name: value for name, value in os.environ.items() if name not in hidden}


def _free_port(host: str) -> int:
    for port in (DEFAULT_PORT, 0):
        with socket.socket() as listener:
            try:
                listener.bind((host, port))
            except OSError:
                continue
            return listener.getsockname()[1]
    raise BackboneError(f"starting a Ray head: no port of {host} can be had; end what holds them")


def _start(
    arguments: list[str], environment: dict[str, str], log_file: Path
) -> subprocess.Popen[bytes]:
    """In a session of its own, so that Ctrl-C in a terminal reaches the run alone."""
    log_file.parent.mkdir(parents=True, exist_ok=True)
    with log_file.open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "astuner.backbone.cluster.ray_head", *arguments],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _wait_until_started(process: subprocess.Popen[bytes], address: str, log_file: Path) -> None:
    """The head is there when this machine has a node of it that also answers."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise _not_started(address, f"it ended with code {process.returncode}", log_file)
        if address in clusters_of_this_machine():
            wait_for_grpc(address, seconds=max(1.0, deadline - time.monotonic()))
            return
        time.sleep(0.2)
    raise _not_started(address, f"it was not there after {START_SECONDS:g} s", log_file)


def _not_started(address: str, found: str, log_file: Path) -> BackboneError:
    lines = [line for line in log_file.read_text(errors="replace").splitlines() if line.strip()]
    said = f", saying: {lines[-1].strip()}" if lines else ", and said nothing"
    last = "\n".join(lines[-15:])
    return BackboneError(
        f"starting a Ray head at {address} failed: {found}{said}\nIts last lines ({log_file}):"
        f"\n{last}\n"
        "Mend what they say, or start a head yourself (ray start --head) and use --ray-address"
    )


def _stop(process: subprocess.Popen[bytes], address: str) -> None:
    """End the head with all its processes; a warning names what is left after the time."""
    assert process.stdin is not None
    try:
        process.stdin.write(b"end\n")
        process.stdin.close()
    except BrokenPipeError:
        pass  # it has ended already
    try:
        code = process.wait(timeout=STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        code = None
    if code != 0:
        logger.warning("Ray at %s did not end whole; see logs/ray_head.log", address)
    _forget(address)


def _forget(address: str) -> None:
    """Take the address of the ended head out of the file where Ray would look it up."""
    from ray._common.utils import get_ray_address_file
    from ray._private.services import find_bootstrap_address

    if find_bootstrap_address(None) == address:
        Path(get_ray_address_file(None)).unlink(missing_ok=True)


def _newest_session() -> Path | None:
    """The folder of the head that was started last, which Ray's link tells until the next start."""
    from ray._common.utils import get_default_ray_temp_dir

    session = Path(get_default_ray_temp_dir(), "session_latest").resolve()
    return session if session.is_dir() else None
