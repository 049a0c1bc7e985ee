"""`astuner.context_tracker`: how an agent's calls are joined."""

from typing import Literal

from pydantic import Field

from astuner.config.section import Section


class TimelineMergingSettings(Section):
    timeline_compare_level: Literal["text", "token"] = Field(
        description="token: a call continues an earlier one whose messages it repeats; text: also "
        "one whose text its prompt begins with, and the drift is counted."
    )
    ignore_tools: bool = Field(
        description="Calls with other tools may continue each other where the prompt stays the "
        "same; false: never."
    )


class ContextTrackerSettings(Section):
    timeline_merging_policy: TimelineMergingSettings
    detect_timeline_snap: bool = Field(
        description="Log each place where a call could not continue an earlier one, and why."
    )
