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
        "Most by which mean sampled tokens may grow, as a share: 0.2 is a fifth; null: any.",
    )
