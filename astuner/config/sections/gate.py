"""`astuner.evaluation.gate`: what a tuned model must reach before it may be released."""

from pydantic import NonNegativeFloat

from astuner.config.section import Section, UsedBy, setting


class GateSettings(Section):
    min_gain: float | None = setting(
        UsedBy.ALL,
        "Least gain in success over the baseline that its 95% interval must lie above; "
        "null: not asked.",
        ge=-1,
        le=1,
    )
    max_longer: NonNegativeFloat | None = setting(
        UsedBy.ALL,
        "Most by which mean sampled tokens may grow, as a share, for the whole 95% interval: 0.2 "
        "is a fifth; null: any.",
    )
    not_worse_on: dict[str, list[str | bool | int | float]] = setting(
        UsedBy.ALL,
        "Tags that must not lose more than max_drop, each by itself: {field: [values]}; an empty "
        "list is every value. A field is source, or one of the tasks' metadata.",
    )
    guard: str | None = setting(
        UsedBy.ALL,
        "jsonl file of tasks outside of what is tuned, evaluated for both models too, that must "
        "not lose more than max_drop; null: none.",
    )
    max_drop: float = setting(
        UsedBy.ALL,
        "Loss in success on tags and guard tasks that the 95% interval must exclude.",
        gt=0,
        le=1,
    )
    max_failed: float | None = setting(
        UsedBy.ALL, "Largest share of episodes that fail; null: any.", ge=0, le=1
    )
    max_format_errors: float | None = setting(
        UsedBy.ALL,
        "Largest share of episodes with a reply that was cut off, mad, refused or not in the "
        "format asked for; null: any.",
        ge=0,
        le=1,
    )
