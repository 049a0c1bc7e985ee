"""Who in a cluster has not answered: actors that wait or have died, and what was logged last."""

# Ray is installed in the virtual environments of verl and Trinity only:
# pyright: reportMissingImports=false

from collections.abc import Collection, Mapping
from typing import Any

from astuner.backbone.cluster.worker_logs import WorkerLogs

_NUM_LINES = 8
_NUM_LOGS = 3


def describe_silence(logs: WorkerLogs) -> str:
    """For the end of a message: one line for each actor in trouble, and the newest logs' ends."""
    import ray

    lines = [_described(actor) for actor in _own_actors() if not _is_alive(actor)]
    if any("PENDING" in line for line in lines):
        lines.append(f"the cluster has {_counted(ray.cluster_resources())}")
        lines.append(f"of which are free {_counted(ray.available_resources())}")
    if not lines:
        lines.append("all actors are alive, so one of them waits or computes")
    newest = sorted(logs.tail(num_lines=_NUM_LINES).items(), key=lambda item: _age(logs, item[0]))
    for name, last in newest[:_NUM_LOGS]:
        lines.append(f"last lines of {logs.folder / name}:")
        lines += [f"    {line}" for line in last]
    return "\n".join(["", *(f"  {line}" for line in lines)])


def find_dead(classes: Collection[str]) -> str | None:
    """The first actor of one of the `classes` that died; None while all live."""
    dead = (actor for actor in _own_actors() if actor["State"] == "DEAD")
    return next((_lost(actor) for actor in dead if _class_of(actor) in classes), None)


def describe_lost(error: BaseException) -> str | None:
    """The actor that an error of Ray is about, and its machine; None where it is about none."""
    lost = getattr(error, "actor_id", None)
    found = (actor for actor in _own_actors() if lost and actor["ActorID"] == lost)
    return next(map(_lost, found), None)


def _own_actors() -> list[Mapping[str, Any]]:
    """Those of this run: a cluster remembers the dead of earlier ones."""
    import ray
    from ray._private import state

    job = ray.get_runtime_context().get_job_id()
    return [actor for actor in state.actors().values() if actor["JobID"] == job]


def _class_of(actor: Mapping[str, Any]) -> str:
    """Without the function that a class was made in."""
    return actor["ActorClassName"].rpartition(".")[2]


def _is_alive(actor: Mapping[str, Any]) -> bool:
    return actor["State"] == "ALIVE"


def _lost(actor: Mapping[str, Any]) -> str:
    return f"{_class_of(actor)} on {actor['Address']['IPAddress']} is lost"


def _described(actor: Mapping[str, Any]) -> str:
    where = actor["Address"]["IPAddress"] or "no node yet"
    name = f" {actor['Name']!r}" if actor["Name"] else ""
    return f"actor {actor['ActorClassName']}{name} is {actor['State']} ({where})"


def _counted(resources: Mapping[str, float]) -> str:
    """CPUs and GPUs, without Ray's marks of single nodes."""
    return ", ".join(f"{resources.get(kind, 0.0):g} {kind}" for kind in ("CPU", "GPU"))


def _age(logs: WorkerLogs, name: str) -> float:
    return -(logs.folder / name).stat().st_mtime
