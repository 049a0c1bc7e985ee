"""Who in a cluster has not answered: actors that wait or have died, and what was logged last."""

# Ray is installed in the virtual environments of verl and Trinity only:
# pyright: reportMissingImports=false

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from astuner.backbone.cluster.worker_logs import WorkerLogs

_ACTOR_ID = re.compile(r"\b(?:actor_id: |The actor )([0-9a-f]{8,})\b")
"""As Ray's errors write it: of one that died, and of one whose connection broke before that was
known, as with a machine that is lost."""
_PURPOSES = ("RAY_KILL", "OUT_OF_SCOPE", "REF_DELETED", "OWNER_DIED")
"""Reasons that Ray gives for the end of an actor that somebody wanted to end, or that followed its
owner, which is told of itself."""
_WANTED_EXIT = "Worker exit type: INTENDED_"
"""In what Ray says of a process that ended itself in order."""
_NUM_LINES = 8
_NUM_LOGS = 3


def describe_silence(logs: WorkerLogs) -> str:
    """For the end of a message: one line for each actor in trouble, and the ends of logs, those of
    the dead first and then the newest."""
    import ray

    actors = _own_actors()
    lines = [_described(actor) for actor in actors if not _is_alive(actor)]
    if any("PENDING" in line for line in lines):
        lines.append(f"the cluster has {_counted(ray.cluster_resources())}")
        lines.append(f"of which are free {_counted(ray.available_resources())}")
    if not lines:
        lines.append("all actors are alive, so one of them waits or computes")
    dead = tuple(_log_end(actor) for actor in actors if actor["State"] == "DEAD")
    ends = logs.tail(num_lines=_NUM_LINES)
    names = sorted(ends, key=lambda name: (not name.endswith(dead), _age(logs, name)))
    for name in names[:_NUM_LOGS]:
        lines += _quoted(logs, name, ends[name])
    return "\n".join(["", *(f"  {line}" for line in lines)])


def find_lost(classes: Collection[str]) -> str | None:
    """The actor of one of the `classes` that died first of a fault; None while there is none.

    One that was ended, or ended itself in order, as an engine's do at its end, is not lost; nor is
    one whose constructor raised, which whoever made it is told.
    """
    return next(map(_lost, _failed_first(classes)), None)


def describe_lost(
    said: str, logs: WorkerLogs, classes: Collection[str] = ()
) -> tuple[str | None, str]:
    """The lost actor behind an error of Ray, with its machine, and what it printed last: that of
    one of the `classes` that died first, else the one that the text `said` names last.

    None and nothing where there is none.
    """
    actors = {actor["ActorID"]: actor for actor in _own_actors()}
    named = [actors[found] for found in _ACTOR_ID.findall(said) if found in actors]
    lost = next(iter([*_failed_first(classes), *reversed(named)]), None)
    if lost is None:
        return None, ""
    ends = logs.tail(num_lines=_NUM_LINES)
    names = [name for name in ends if name.endswith(_log_end(lost))]
    quoted = [line for name in names for line in _quoted(logs, name, ends[name])]
    return _lost(lost), "".join(f"\n  {line}" for line in quoted)


def _failed_first(classes: Collection[str]) -> list[Mapping[str, Any]]:
    """Those that died of a fault, the first before those that it took along."""
    failed = [
        actor for actor in _own_actors() if _class_of(actor) in classes and _has_failed(actor)
    ]
    return sorted(failed, key=lambda actor: actor["EndTime"])


def _quoted(logs: WorkerLogs, name: str, last: Sequence[str]) -> list[str]:
    return [f"last lines of {logs.folder / name}:", *(f"    {line}" for line in last)]


def _log_end(actor: Mapping[str, Any]) -> str:
    """How the name of its log ends."""
    return f"_{actor['Pid']}.log"


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


def _has_failed(actor: Mapping[str, Any]) -> bool:
    if actor["State"] != "DEAD":
        return False
    cause = actor["DeathCause"]
    kind = cause.WhichOneof("context")
    if kind != "actor_died_error_context":
        return kind != "creation_task_failure_context"
    died = cause.actor_died_error_context
    reason = died.DESCRIPTOR.fields_by_name["reason"].enum_type.values_by_number[died.reason].name
    return reason not in _PURPOSES and _WANTED_EXIT not in died.error_message


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
