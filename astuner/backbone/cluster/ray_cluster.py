"""Enters a Ray cluster for one run: joins it, or starts a head on this machine and ends it again.

Owns the connection of this process, and waits for the machines that the run wants. It never touches
a cluster that somebody else started. What the nodes have is the business of `node_check`.
"""

# Ray is installed in the virtual environments of verl and Trinity only:
# pyright: reportMissingImports=false

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from astuner.backbone.cluster.ray_find import FoundCluster, check_answers, find_cluster
from astuner.backbone.cluster.ray_own_head import (
    CARDS_VARIABLE,
    HeadResources,
    Say,
    own_head,
)
from astuner.backbone.cluster.worker_logs import WorkerLogs
from astuner.backbone.cluster.worker_setup import with_worker_setup
from astuner.errors import BackboneError

JOIN_SECONDS = 600.0
"""How long further machines may take to join a head that was started here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RayCluster:
    """The cluster that this process is connected to."""

    address: str
    """Host and port of the head."""
    is_started_here: bool
    logs: WorkerLogs


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
    resources, runtime_env = head_resources or HeadResources(), runtime_env or {}
    if ray.is_initialized():
        logs.take_over()
        joined = ray.get_runtime_context().gcs_address
        say(f"Ray: this process is connected to the cluster at {joined} already")
        yield RayCluster(address=joined, is_started_here=False, logs=logs)
        return
    found = find_cluster(with_ray=with_ray, address=address)
    if found is not None:
        check_answers(found)
        with _connected(found, runtime_env, logs):
            say(_what_was_joined(found))
            _wait_for_nodes(num_nodes, found.address, seconds=join_seconds, say=say)
            yield RayCluster(address=found.address, is_started_here=False, logs=logs)
        return
    with (
        own_head(resources, logs, say) as started,
        _connected(started, _with_card(runtime_env, resources.card), logs),
    ):
        _wait_for_nodes(num_nodes, started.address, seconds=join_seconds, say=say)
        yield RayCluster(address=started.address, is_started_here=True, logs=logs)


def _with_card(runtime_env: Mapping[str, Any], card: str | None) -> Mapping[str, Any]:
    """Ray gives all cards of its environment to a process whose place is beyond their number."""
    if card is None:
        return runtime_env
    return {**runtime_env, "env_vars": {**runtime_env.get("env_vars", {}), CARDS_VARIABLE: card}}


def _what_was_joined(found: FoundCluster) -> str:
    if found.origin == "this machine":
        return f"Ray: joined the cluster that this machine belongs to, {found.address}; it stays"
    return f"Ray: joined the cluster at {found.address} ({found.origin}); it stays"


@contextmanager
def _connected(
    found: FoundCluster, runtime_env: Mapping[str, Any], logs: WorkerLogs
) -> Iterator[None]:
    import ray

    _use_token_if_there_is_one()
    try:
        ray.init(
            address=found.address,
            runtime_env=with_worker_setup(runtime_env),
            log_to_driver=True,
            configure_logging=False,
        )
    except (ConnectionError, RuntimeError, ray.exceptions.RayError) as error:
        raise BackboneError(
            f"connecting to the Ray cluster at {found.address} (from {found.origin}) failed: "
            f"{type(error).__name__}: {error}; the cluster and this virtual environment need the "
            "same versions of Ray and Python, and where its head was started with "
            "RAY_AUTH_MODE=token, set that here too and copy the head's ~/.ray/auth_token to this "
            "machine"
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
