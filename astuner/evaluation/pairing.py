"""Whether two evaluations may be compared, and the tasks that both have."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from astuner.config.load import packaged_values
from astuner.errors import ConfigError
from astuner.evaluation.outcomes import EvaluatedModel, TaskOutcomes

_NUM_NAMED = 5
_CODE = " (code)"
"""Ends the names of digests of code, which validations of training runs do not have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedTask:
    """The attempts of both models at one task."""

    a: TaskOutcomes
    b: TaskOutcomes


def pair_tasks(a: EvaluatedModel, b: EvaluatedModel, *, common_only: bool) -> list[PairedTask]:
    """The tasks of both, in the order of a.

    Raises ConfigError, naming what differs, where workflow, judge or settings do, where tasks do
    and not `common_only`, and where no task is common.
    """
    differing = _differing_settings(a.facts.decides, b.facts.decides)
    if differing:
        raise ConfigError(
            f"{_both(a, b)} were not evaluated in the same way:\n{_listed(differing)}\n"
            "Evaluate one of them again with the settings of the other"
        )
    _check_whole(a, b, common_only=common_only)
    others = {task.digest: task for task in b.tasks}
    pairs = [PairedTask(a=t, b=others[t.digest]) for t in a.tasks if t.digest in others]
    unlike = _unlike_tasks(a, b)
    if not pairs:
        raise ConfigError(f"{_both(a, b)} have no task in common:\n{_listed(unlike)}")
    if unlike and not common_only:
        raise ConfigError(
            f"{_both(a, b)} were not evaluated on the same tasks:\n{_listed(unlike)}\n"
            f"Compare the {len(pairs)} tasks that both have by --common, or evaluate both on the "
            "same ones"
        )
    return pairs


def judged_pairs(pairs: Sequence[PairedTask]) -> list[PairedTask]:
    """Those of which both sides have an attempt that did not fail."""
    return [pair for pair in pairs if pair.a.judged and pair.b.judged]


def _both(a: EvaluatedModel, b: EvaluatedModel) -> str:
    return f"{a.name} ({a.run_dir}) and {b.name} ({b.run_dir})"


def _listed(lines: Sequence[str]) -> str:
    return "\n".join(f"  {line}" for line in lines)


def _differing_settings(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """A line for each; a setting that one release did not know had its default there."""
    defaults = packaged_values()
    lines = []
    for key in sorted({*a, *b}):
        if key.endswith(_CODE) and not (key in a and key in b):
            continue
        own, other = a.get(key, defaults.get(key)), b.get(key, defaults.get(key))
        if own != other:
            lines.append(f"{key}: {own!r} and {other!r}")
    return lines


def _check_whole(a: EvaluatedModel, b: EvaluatedModel, *, common_only: bool) -> None:
    """An evaluation that was cut off holds the tasks that ended first: the quick ones."""
    for model in (a, b):
        facts = model.facts
        num_missing = facts.num_tasks * facts.num_repeat - sum(len(t.attempts) for t in model.tasks)
        if num_missing > 0 and not common_only:
            raise ConfigError(
                f"{model.name} ({model.run_dir}) is not finished: {num_missing} of "
                f"{facts.num_tasks * facts.num_repeat} episodes are missing; give the same "
                "`astuner evaluate` command again, which goes on with it, or compare what there is "
                "by --common"
            )


def _unlike_tasks(a: EvaluatedModel, b: EvaluatedModel) -> list[str]:
    """In words, the tasks that only one has; those of one id and another content as changed."""
    own = {task.digest: task.task_id for task in a.tasks}
    other = {task.digest: task.task_id for task in b.tasks}
    only_a = [name for digest, name in own.items() if digest not in other]
    only_b = [name for digest, name in other.items() if digest not in own]
    changed = [name for name in only_a if name in set(only_b)]
    found = {
        "changed between them": changed,
        f"only in {a.name}": [name for name in only_a if name not in set(changed)],
        f"only in {b.name}": [name for name in only_b if name not in set(changed)],
    }
    return [f"{len(names)} {what}: {_some(names)}" for what, names in found.items() if names]


def _some(names: Sequence[str]) -> str:
    more = ", …" if len(names) > _NUM_NAMED else ""
    return f"{', '.join(names[:_NUM_NAMED])}{more}"
