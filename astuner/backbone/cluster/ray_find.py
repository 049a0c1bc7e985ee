"""Finds the Ray cluster that a run is to join, and looks whether it can be joined from here.

Starts nothing and connects to nothing: that is `ray_cluster.py`, and `ray_own_head.py` where there
is no cluster to join.
"""

# Ray is installed in the virtual environments of verl and Trinity only:
# pyright: reportMissingImports=false

import os
import socket
from dataclasses import dataclass
from typing import Literal

from astuner.backbone.cluster.ray_head import heads_of_runs
from astuner.errors import ConfigError

DEFAULT_PORT = 6379
"""Ray's own."""
PROBE_SECONDS = 12.0
"""Ray itself waits for minutes for a cluster that does not answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundCluster:
    """An existing cluster and where its address comes from."""

    address: str
    origin: Literal["--ray-address", "RAY_ADDRESS", "this machine"]


def find_cluster(*, with_ray: bool, address: str | None) -> FoundCluster | None:
    """The cluster to join; None: start one. Raises ConfigError when neither was asked for."""
    from_environment = os.environ.get("RAY_ADDRESS")
    if address:
        return FoundCluster(address=_checked(address, "--ray-address"), origin="--ray-address")
    if from_environment and from_environment not in ("auto", "local"):
        return FoundCluster(address=_checked(from_environment, "RAY_ADDRESS"), origin="RAY_ADDRESS")
    if not with_ray:
        raise ConfigError(
            "this backbone runs on a Ray cluster, and none was named; add --with-ray to use this "
            "machine, or --ray-address HOST:PORT (or the environment variable RAY_ADDRESS) to "
            "join a cluster"
        )
    passing = heads_of_runs()
    here = (address for address in clusters_of_this_machine() if address not in passing)
    standing = next(filter(_listens, here), None)
    return FoundCluster(address=standing, origin="this machine") if standing else None


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


def clusters_of_this_machine() -> list[str]:
    """Addresses of the clusters of which a node runs here, the one that was started last first."""
    from ray._private.services import find_bootstrap_address, find_gcs_addresses

    find_gcs_addresses.cache_clear()  # it remembers what ran earlier
    last = find_bootstrap_address(None)
    return sorted(find_gcs_addresses(), key=lambda address: (address != last, address))


def check_answers(found: FoundCluster, *, seconds: float = PROBE_SECONDS) -> None:
    """Raise ConfigError unless a Ray head answers there and this machine is one of its nodes."""
    try:
        _open_and_close(found.address, seconds=seconds / 2)
        wait_for_grpc(found.address, seconds=seconds / 2)
    except OSError as error:
        raise ConfigError(_unreachable(found, str(error))) from error
    if not any(_is_same(found.address, here) for here in clusters_of_this_machine()):
        raise ConfigError(
            f"{found.origin}: this machine is not a node of the Ray cluster at {found.address}, "
            "and Ray lets only its nodes start work. Type here, in this virtual environment: ray "
            f"start --address={found.address}; or run astuner on one of the cluster's machines"
        )


def wait_for_grpc(address: str, *, seconds: float) -> None:
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


def _unreachable(cluster: FoundCluster, found: str) -> str:
    ways = {
        "--ray-address": "mend --ray-address, start that head again, or leave the flag out and "
        "add --with-ray to use this machine",
        "RAY_ADDRESS": "unset RAY_ADDRESS and add --with-ray to use this machine, or set it to a "
        "cluster that runs (it is an environment variable of this shell)",
        "this machine": "end that cluster with `ray stop`, then start again",
    }
    return (
        f"no Ray cluster answers at {cluster.address} (from {cluster.origin}): {found}; "
        f"{ways[cluster.origin]}"
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
