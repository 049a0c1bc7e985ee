"""Judges: give an episode a reward where its workflow gave none."""

from astuner.task_judge.base_judge import BaseJudge, GroupJudge

__all__ = ["BaseJudge", "GroupJudge"]
