"""`astuner.context_tracker`: how an agent's calls are joined."""

from typing import Literal

from astuner.config.section import Section, UsedBy, setting


class TimelineMergingSettings(Section):
    timeline_compare_level: Literal["text", "token"] = setting(
        UsedBy.ENGINE,
        "token: a call continues an earlier one whose messages it repeats; text: also "
        "one whose text its prompt begins with, and the drift is counted.",
    )
    ignore_tools: bool = setting(
        UsedBy.ENGINE,
        "Calls with other tools may continue each other where the prompt stays the "
        "same; false: never.",
    )


class ContextTrackerSettings(Section):
    timeline_merging_policy: TimelineMergingSettings
    detect_timeline_snap: bool = setting(
        UsedBy.ENGINE, "Log each place where a call could not continue an earlier one, and why."
    )
