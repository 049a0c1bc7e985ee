"""Which of the keys that the user set have no effect, so that a run can say so when it starts."""

from collections.abc import Collection, Iterator

from astuner.config.accepted import what_became_of
from astuner.config.compose import PASS_THROUGH
from astuner.config.generated_sets import generated_sources, section_key
from astuner.config.reader_choice import section_of
from astuner.config.schema import Settings, used_by
from astuner.config.section import UsedBy
from astuner.config.sections.task_reader import OneReaderSettings


def unused_keys(explicit_keys: Collection[str], settings: Settings) -> tuple[str, ...]:
    """The keys among `explicit_keys` that the backbone does not use, in alphabetical order."""
    way = _way_to_run(settings)
    return tuple(key for key in sorted(explicit_keys) if not way & _users(key))


def unselected_keys(explicit_keys: Collection[str], settings: Settings) -> tuple[str, ...]:
    """The keys among `explicit_keys` below a reader or judge that is not the chosen one."""
    unselected = tuple(_unselected(settings))
    prefixes = tuple(f"{section}." for section in unselected)
    return tuple(k for k in sorted(explicit_keys) if k in unselected or k.startswith(prefixes))


def describe_unused(explicit_keys: Collection[str], settings: Settings) -> tuple[str, ...]:
    """One line for each reason why settings have no effect; empty when all have one."""
    accepted = {key: fate for key in sorted(explicit_keys) if (fate := what_became_of(key))}
    keys = [key for key in explicit_keys if key not in accepted]
    unused = unused_keys(keys, settings)
    unselected = tuple(k for k in unselected_keys(keys, settings) if k not in unused)
    switched_off = _switched_off_keys(keys, settings)
    lines = []
    if unused:
        lines.append(f"not used by backbone {settings.backbone}: {', '.join(unused)}")
    if unselected:
        lines.append(
            f"not used with task_reader.type {settings.task_reader.type} and "
            f"task_judge.judge_type {settings.task_judge.judge_type}: {', '.join(unselected)}"
        )
    lines += [f"not used while {why}: {', '.join(off)}" for why, off in switched_off.items()]
    for fate in dict.fromkeys(accepted.values()):
        names = ", ".join(key for key in accepted if accepted[key] == fate)
        lines.append(f"without effect: {names}: {fate}")
    return tuple(lines)


def _switched_off_keys(keys: Collection[str], settings: Settings) -> dict[str, list[str]]:
    """Keys below a part of the making of tasks that is off, by what says so."""
    found: dict[str, list[str]] = {}
    for source, section in generated_sources(settings.task_reader).items():
        key = section_key(source)
        off = {
            f"{key}.pass_rate.": (section.pass_rate.enabled, f"{key}.pass_rate.enabled"),
            f"{key}.filter.params.": (section.filter.enabled, f"{key}.filter.enabled"),
        }
        for prefix, (is_on, switch) in off.items():
            below = [k for k in sorted(keys) if k.startswith(prefix) and k != switch]
            if below and not is_on:
                found[f"{switch} is false"] = below
    return found


def _way_to_run(settings: Settings) -> UsedBy:
    if settings.backbone != "debug":
        return UsedBy[settings.backbone.upper()]
    has_server = settings.debug.openai_base_url is not None
    return UsedBy.DEBUG_SERVER if has_server else UsedBy.DEBUG_MODEL


def _users(key: str) -> UsedBy:
    root = key.partition(".")[0]
    return UsedBy[root.upper()] if root in PASS_THROUGH else used_by(key)


def _unselected(settings: Settings) -> Iterator[str]:
    """Sections and keys."""
    reader = settings.task_reader
    yield from _unread_sections("astuner.task_reader", reader)
    for name, source in reader.mixture.sources.items():
        yield from _unread_sections(f"astuner.task_reader.mixture.sources.{name}", source)
    if settings.task_judge.judge_type == "rubrics_auto_grader":
        yield "astuner.task_judge.judge_protocol"
    else:
        yield "astuner.task_judge.rubrics_auto_grader"


def _unread_sections(key: str, reader: OneReaderSettings) -> Iterator[str]:
    selected = section_of(reader.type)
    for name in OneReaderSettings.model_fields.keys() | {"mixture"}:
        if name not in ("type", selected):
            yield f"{key}.{name}"
