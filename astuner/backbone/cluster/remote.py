"""The hub as a Ray actor: started by the command, found by name in every other process."""

# Ray is installed in the virtual environments of verl and Trinity only:
# pyright: reportMissingImports=false

import os
from collections.abc import Mapping, Sequence

from astuner.backbone.cluster.hub import Hub
from astuner.backbone.cluster.hub_handle import HubHandle
from astuner.backbone.cluster.stored_curriculum import StoredCurriculum
from astuner.backbone.worker_run import WorkerRun
from astuner.errors import AstunerError, BackboneError
from astuner.types import Task

HUB_VARIABLE = "ASTUNER_HUB"
"""Environment variable of all processes of the run: the name of its hub."""

_MAX_CALLS = 1_000_000
"""Of the hub at once. Attempts that wait to be compared hold a call each, and what they wait for
comes in a call itself: with Ray's own limit of 1000 a thousand of them would wait for ever."""


def hub_name(worker_run: WorkerRun) -> str:
    """One for each start; the run directory tells runs of one cluster apart."""
    folder = worker_run.run_dir
    return f"astuner-{folder.parent.name}-{folder.name}-{os.getpid()}"


def start_hub(
    name: str,
    worker_run: WorkerRun,
    tasks: Mapping[str, Sequence[Task]],
    *,
    namespace: str | None,
    curriculum: StoredCurriculum | None = None,
) -> HubHandle:
    """The actor, ready, on the machine of the command, so that the loss of another one leaves
    somebody to name it. It ends with the command, or when its handle is killed.

    Raises BackboneError where it is not ready within trainer_common.phase_timeout_seconds, or dies,
    and AstunerError for what it cannot do here.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    seconds = worker_run.settings.trainer_common.phase_timeout_seconds
    actor = ray.remote(num_cpus=0, max_restarts=0, max_concurrency=_MAX_CALLS)(Hub)
    placed = actor.options(name=name, namespace=namespace, scheduling_strategy=here)
    hub = placed.remote(worker_run, tasks, curriculum)
    try:
        ray.get(hub.prepare.remote(), timeout=seconds)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, AstunerError):
            raise error.cause from None
        raise
    except (ray.exceptions.GetTimeoutError, ray.exceptions.RayActorError) as error:
        found = str(error).strip() or "no answer"
        raise BackboneError(
            f"starting the hub, where the processes of the run meet, failed within {seconds:g} s "
            f"(trainer_common.phase_timeout_seconds): {type(error).__name__}: {found}. Look "
            "whether the nodes of the cluster are alive and have a free processor (ray status), "
            "then start again"
        ) from error
    return hub


def lost_errors() -> tuple[type[Exception], ...]:
    """What is raised in place of an answer where the hub or its node is gone."""
    import ray

    return (ray.exceptions.RayActorError, ray.exceptions.RaySystemError, ray.exceptions.RpcError)


def find_hub() -> HubHandle:
    """The hub of this process's run. Raises BackboneError outside of a run."""
    import ray

    name = os.environ.get(HUB_VARIABLE)
    if not name:
        raise BackboneError(
            f"{HUB_VARIABLE} is not set; this code runs inside of a run that astuner started"
        )
    name, _, namespace = name.partition("@")
    return ray.get_actor(name, namespace=namespace or None)
