"""`astuner.evaluation`: on which tasks a model is evaluated, and what it must reach."""

from typing import Literal

from pydantic import PositiveInt

from astuner.config.section import Section, UsedBy, setting
from astuner.config.sections.gate import GateSettings


class EvaluationSettings(Section):
    split: Literal["test", "validation"] | None = setting(
        UsedBy.ALL, "Which tasks; null: test where the reader has one, else validation."
    )
    num_repeat: PositiveInt = setting(UsedBy.ALL, "Attempts at each task.")
    max_tasks: PositiveInt | None = setting(UsedBy.ALL, "Most tasks; null: all.")
    gate: GateSettings
