"""Which of the keys that the user set have no effect, so that a run can say so when it starts."""

from collections.abc import Collection, Iterator

from astuner.config.accepted import what_became_of
from astuner.config.compose import PASS_THROUGH
from astuner.config.schema import Settings, used_by
from astuner.config.section import UsedBy
from astuner.config.sections.task_reader import TaskReaderSettings

_SECTION_OF_READER = {"tracing": "feedback_tracing"}
"""Readers whose section is not named like their type."""


def unused_keys(explicit_keys: Collection[str], settings: Settings) -> tuple[str, ...]:
    """The keys among `explicit_keys` that the backbone does not use, in alphabetical order."""
    way = _way_to_run(settings)
    return tuple(key for key in sorted(explicit_keys) if not way & _users(key))


def unselected_keys(explicit_keys: Collection[str], settings: Settings) -> tuple[str, ...]:
    """The keys among `explicit_keys` below a reader or judge that is not the chosen one."""
    prefixes = tuple(f"{section}." for section in _unselected_sections(settings))
    return tuple(k for k in sorted(explicit_keys) if k.startswith(prefixes))


def describe_unused(explicit_keys: Collection[str], settings: Settings) -> tuple[str, ...]:
    """One line for each reason why settings have no effect; empty when all have one."""
    accepted = {key: fate for key in sorted(explicit_keys) if (fate := what_became_of(key))}
    keys = [key for key in explicit_keys if key not in accepted]
    unused = unused_keys(keys, settings)
    unselected = tuple(k for k in unselected_keys(keys, settings) if k not in unused)
    lines = []
    if unused:
        lines.append(f"not used by backbone {settings.backbone}: {', '.join(unused)}")
    if unselected:
        lines.append(
            f"not used with task_reader.type {settings.task_reader.type} and "
            f"task_judge.judge_type {settings.task_judge.judge_type}: {', '.join(unselected)}"
        )
    for fate in dict.fromkeys(accepted.values()):
        names = ", ".join(key for key in accepted if accepted[key] == fate)
        lines.append(f"without effect: {names}: {fate}")
    return tuple(lines)


def _way_to_run(settings: Settings) -> UsedBy:
    if settings.backbone != "debug":
        return UsedBy[settings.backbone.upper()]
    has_server = settings.debug.openai_base_url is not None
    return UsedBy.DEBUG_SERVER if has_server else UsedBy.DEBUG_MODEL


def _users(key: str) -> UsedBy:
    root = key.partition(".")[0]
    return UsedBy[root.upper()] if root in PASS_THROUGH else used_by(key)


def _unselected_sections(settings: Settings) -> Iterator[str]:
    reader = settings.task_reader.type
    selected = _SECTION_OF_READER.get(reader, reader)
    for name in TaskReaderSettings.model_fields:
        if name not in ("type", selected):
            yield f"astuner.task_reader.{name}"
    if settings.task_judge.judge_type != "rubrics_auto_grader":
        yield "astuner.task_judge.rubrics_auto_grader"
