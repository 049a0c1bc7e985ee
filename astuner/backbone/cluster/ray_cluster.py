"""Enters a Ray cluster for one run: joins it, or starts a head on this machine and ends it again.

Owns the connection of this process and what was started for it. It never touches a cluster that
somebody else started. What the nodes have is the business of `node_check`.
"""

# Ray is installed in the virtual environments of verl and Trinity only:
# pyright: reportMissingImports=false

import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from astuner.backbone.cluster.ray_head import heads_of_runs
from astuner.backbone.cluster.worker_logs import WorkerLogs
from astuner.errors import BackboneError, ConfigError

logger = logging.getLogger(__name__)

DEFAULT_PORT = 6379
"""Ray's own; another is taken where something listens there."""
PROBE_SECONDS = 12.0
"""Ray itself waits for minutes for a cluster that does not answer."""
START_SECONDS = 90.0
STOP_SECONDS = 25.0
JOIN_SECONDS = 600.0
"""How long further machines may take to join a head that was started here."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class RayCluster:
    """The cluster that this process is connected to."""

    address: str
    """Host and port of the head."""
    is_started_here: bool
    logs: WorkerLogs


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadResources:
    """What a head that is started here says it has; None: what Ray finds."""

    num_cpus: int | None = None
    num_gpus: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """An existing cluster and where its address comes from."""

    address: str
    origin: Literal["--ray-address", "RAY_ADDRESS", "this machine"]


@contextmanager
def ray_cluster(
    *,
    with_ray: bool,
    address: str | None,
    logs_dir: Path,
    say: Say,
    runtime_env: Mapping[str, Any] | None = None,
    num_nodes: int = 1,
    head_resources: HeadResources | None = None,
    join_seconds: float = JOIN_SECONDS,
) -> Iterator[RayCluster]:
    """Inside, this process is connected to a Ray cluster of at least `num_nodes` machines.

    `address`, or else the environment variable RAY_ADDRESS, names a cluster to join. `with_ray`
    joins the one that this machine belongs to, and starts a head where there is none, or only that
    of another run, which ends with it. What was started here, and nothing else, is ended on
    leaving, however that comes about. A connection that this process already had is used and kept.
    Raises ConfigError where there is no cluster and BackboneError where Ray does not start or
    machines do not join in time.
    """
    import ray

    logs = WorkerLogs(logs_dir)
    if ray.is_initialized():
        logs.take_over()
        joined = ray.get_runtime_context().gcs_address
        say(f"Ray: this process is connected to the cluster at {joined} already")
        yield RayCluster(address=joined, is_started_here=False, logs=logs)
        return
    place = _find_cluster(with_ray=with_ray, address=address)
    if place is not None:
        _check_answers(place)
        with _connected(place, runtime_env, logs):
            say(_what_was_joined(place))
            _wait_for_nodes(num_nodes, place.address, seconds=join_seconds, say=say)
            yield RayCluster(address=place.address, is_started_here=False, logs=logs)
        return
    with (
        _head(head_resources or HeadResources(), logs, say) as started,
        _connected(started, runtime_env, logs),
    ):
        _wait_for_nodes(num_nodes, started.address, seconds=join_seconds, say=say)
        yield RayCluster(address=started.address, is_started_here=True, logs=logs)


def _find_cluster(*, with_ray: bool, address: str | None) -> _Place | None:
    """The cluster to join; None: start one. Raises ConfigError when neither was asked for."""
    from_environment = os.environ.get("RAY_ADDRESS")
    if address:
        return _Place(address=_checked(address, "--ray-address"), origin="--ray-address")
    if from_environment and from_environment not in ("auto", "local"):
        return _Place(address=_checked(from_environment, "RAY_ADDRESS"), origin="RAY_ADDRESS")
    if not with_ray:
        raise ConfigError(
            "this backbone runs on a Ray cluster, and none was named; add --with-ray to use this "
            "machine, or --ray-address HOST:PORT (or the environment variable RAY_ADDRESS) to "
            "join a cluster"
        )
    passing = heads_of_runs()
    here = (address for address in _clusters_of_this_machine() if address not in passing)
    standing = next(filter(_listens, here), None)
    return _Place(address=standing, origin="this machine") if standing else None


def _listens(address: str) -> bool:
    """Whether it is within reach: a container's processes may be seen here, and its network not."""
    try:
        _open_and_close(address, seconds=2.0)
    except OSError:
        return False
    return True


def _open_and_close(address: str, *, seconds: float) -> None:
    """Raises OSError where nothing listens."""
    host, _, port = address.rpartition(":")
    socket.create_connection((host.strip("[]"), int(port)), timeout=seconds).close()


def _checked(address: str, origin: str) -> str:
    host, _, port = address.rpartition(":")
    if "://" not in address and host and port.isdigit():
        return address
    raise ConfigError(
        f"{origin}: {address!r} is not the address of a Ray head; write its host and port, for "
        f"example 10.0.0.1:{DEFAULT_PORT}, as `ray start --head` shows them"
    )


def _clusters_of_this_machine() -> list[str]:
    """Addresses of the clusters of which a node runs here, the one that was started last first."""
    from ray._private.services import find_bootstrap_address, find_gcs_addresses

    find_gcs_addresses.cache_clear()  # it remembers what ran earlier
    last = find_bootstrap_address(None)
    return sorted(find_gcs_addresses(), key=lambda address: (address != last, address))


def _check_answers(place: _Place, *, seconds: float = PROBE_SECONDS) -> None:
    """Raise ConfigError unless a Ray head answers there and this machine is one of its nodes."""
    try:
        _open_and_close(place.address, seconds=seconds / 2)
        _wait_for_grpc(place.address, seconds=seconds / 2)
    except OSError as error:
        raise ConfigError(_unreachable(place, str(error))) from error
    if not any(_is_same(place.address, here) for here in _clusters_of_this_machine()):
        raise ConfigError(
            f"{place.origin}: this machine is not a node of the Ray cluster at {place.address}, "
            "and Ray lets only its nodes start work. Type here, in this virtual environment: ray start "
            f"--address={place.address}; or run astuner on one of the cluster's machines"
        )


def _wait_for_grpc(address: str, *, seconds: float) -> None:
    """Raises TimeoutError, an OSError, when what listens there does not speak as Ray does."""
    import grpc

    if os.environ.get("RAY_USE_TLS") == "1":
        return
    channel = grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)])
    try:
        grpc.channel_ready_future(channel).result(timeout=seconds)
    except grpc.FutureTimeoutError as error:
        raise TimeoutError(f"what listens there did not answer for {seconds:g} s") from error
    finally:
        channel.close()


def _unreachable(place: _Place, found: str) -> str:
    ways = {
        "--ray-address": "mend --ray-address, start that head again, or leave the flag out and "
        "add --with-ray to use this machine",
        "RAY_ADDRESS": "unset RAY_ADDRESS and add --with-ray to use this machine, or set it to a "
        "cluster that runs (it is an environment variable of this shell)",
        "this machine": "end that cluster with `ray stop`, then start again",
    }
    return (
        f"no Ray cluster answers at {place.address} (from {place.origin}): {found}; "
        f"{ways[place.origin]}"
    )


def _is_same(first: str, second: str) -> bool:
    return _resolved(first) == _resolved(second)


def _resolved(address: str) -> tuple[str, str]:
    """Ray writes this machine's loopback address as its address in the network."""
    import ray

    host, _, port = address.rpartition(":")
    try:
        found = socket.gethostbyname(host.strip("[]"))
    except OSError:
        found = host
    is_loopback = found.startswith("127.") or found == "::1"
    return (ray.util.get_node_ip_address() if is_loopback else found, port)


def _what_was_joined(place: _Place) -> str:
    if place.origin == "this machine":
        return f"Ray: joined the cluster that this machine belongs to, {place.address}; it stays"
    return f"Ray: joined the cluster at {place.address} ({place.origin}); it stays"


@contextmanager
def _connected(
    place: _Place, runtime_env: Mapping[str, Any] | None, logs: WorkerLogs
) -> Iterator[None]:
    import ray

    _use_token_if_there_is_one()
    try:
        ray.init(
            address=place.address,
            runtime_env=dict(runtime_env or {}),
            log_to_driver=True,
            configure_logging=False,
        )
    except (ConnectionError, RuntimeError, ray.exceptions.RayError) as error:
        raise BackboneError(
            f"connecting to the Ray cluster at {place.address} (from {place.origin}) failed: "
            f"{type(error).__name__}: {error}; the cluster and this virtual environment need the same "
            "versions of Ray and Python, and where its head was started with RAY_AUTH_MODE=token, "
            "set that here too and copy the head's ~/.ray/auth_token to this machine"
        ) from error
    logs.take_over()
    try:
        yield
    finally:
        ray.shutdown()


def _use_token_if_there_is_one() -> None:
    """What ray.init does for a cluster that it finds by itself, unless RAY_AUTH_MODE is set.

    `ray start --head` guards its cluster by the token as soon as there is one, so a cluster that
    was named needs it as well; this machine is one of its nodes.
    """
    from ray._private.authentication import authentication_token_setup as setup

    setup.maybe_enable_token_auth_if_token_available(warn_if_disabled=False)


def _make_token() -> None:
    """Guard the head by Ray's token, as ray.init does for clusters of its own.

    Ray runs what anybody sends it, and its head listens on all networks. RAY_AUTH_MODE, where it is
    set, is obeyed.
    """
    from ray._private.authentication import authentication_token_setup as setup

    if "RAY_AUTH_MODE" not in os.environ:
        setup._enable_token_auth()
    setup.ensure_token_if_auth_enabled(None, create_token_if_missing=True)


@contextmanager
def _head(resources: HeadResources, logs: WorkerLogs, say: Say) -> Iterator[_Place]:
    """A Ray head on this machine, until the context is left."""
    import ray

    _make_token()
    host = ray.util.get_node_ip_address()
    port = _free_port(host)
    address = f"{host}:{port}"
    started = time.monotonic()
    log_file = logs.folder / "ray_head.log"
    process = _start(_start_arguments(host, port, resources), log_file)
    session: Path | None = None
    try:
        _wait_until_started(process, address, log_file)
        session = _newest_session()
        seconds = time.monotonic() - started
        say(f"Ray: started a head at {address} ({seconds:.0f} s); it ends with this run")
        yield _Place(address=address, origin="this machine")
    finally:
        _stop(process, address)
        if session is not None:
            logs.copy_services(session)


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


def _free_port(host: str) -> int:
    for port in (DEFAULT_PORT, 0):
        with socket.socket() as listener:
            try:
                listener.bind((host, port))
            except OSError:
                continue
            return listener.getsockname()[1]
    raise BackboneError(f"starting a Ray head: no port of {host} can be had; end what holds them")


def _start(arguments: list[str], log_file: Path) -> subprocess.Popen[bytes]:
    """In a session of its own, so that Ctrl-C in a terminal reaches the run alone."""
    log_file.parent.mkdir(parents=True, exist_ok=True)
    with log_file.open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "astuner.backbone.cluster.ray_head", *arguments],
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
        if address in _clusters_of_this_machine():
            _wait_for_grpc(address, seconds=max(1.0, deadline - time.monotonic()))
            return
        time.sleep(0.2)
    raise _not_started(address, f"it was not there after {START_SECONDS:g} s", log_file)


def _not_started(address: str, found: str, log_file: Path) -> BackboneError:
    last = "\n".join(log_file.read_text(errors="replace").splitlines()[-15:])
    return BackboneError(
        f"starting a Ray head at {address} failed: {found}. Its last lines ({log_file}):\n{last}\n"
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


def _wait_for_nodes(num_nodes: int, address: str, *, seconds: float, say: Say) -> None:
    """Raises BackboneError when fewer machines have joined after `seconds`."""
    if num_nodes <= 1:
        return
    deadline = time.monotonic() + seconds
    shown = -1
    while len(nodes := alive_nodes()) < num_nodes:
        if len(nodes) != shown:
            shown = len(nodes)
            say(
                f"Ray: {shown} of {num_nodes} machines are there; on each of the others type, in "
                f"a virtual environment of the same versions: {join_command(address)}"
            )
        if time.monotonic() > deadline:
            raise BackboneError(
                f"waited {seconds:g} s for {num_nodes} machines (trainer_common.nnodes) at "
                f"{address}; there are {shown}: {', '.join(nodes)}. Type on each of the others: "
                f"{join_command(address)}; or set astuner.trainer_common.nnodes={shown}"
            )
        time.sleep(1.0)


def alive_nodes() -> list[str]:
    """The addresses of the nodes that are alive."""
    import ray

    return sorted(str(node["NodeManagerAddress"]) for node in ray.nodes() if node["Alive"])


def join_command(address: str) -> str:
    """What to type on another machine so that it joins."""
    is_guarded = os.environ.get("RAY_AUTH_MODE") == "token"
    return f"{'RAY_AUTH_MODE=token ' if is_guarded else ''}ray start --address={address}"
