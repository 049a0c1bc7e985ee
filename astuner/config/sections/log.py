"""`astuner.log`: how a run writes what it has to say."""

from typing import Literal

from astuner.config.section import Section, UsedBy, setting


class LogSettings(Section):
    format: Literal["text", "json"] = setting(
        UsedBy.ALL,
        "Lines on standard error and in run.log: for people, or each a JSON object with the names "
        "of the Elastic Common Schema.",
    )
