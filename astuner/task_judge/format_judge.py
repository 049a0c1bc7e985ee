"""The judge of a reply's form, by patterns; mostly as a gate or a part of a CombinedJudge."""

import asyncio
from typing import Any

from astuner.errors import ConfigError
from astuner.task_judge.base_judge import BaseJudge
from astuner.task_judge.bounded_patterns import (
    MAX_TEXT_CHARS,
    TakesTooLong,
    checked_pattern,
    is_found,
    prepare_patterns,
)
from astuner.task_judge.final_text import final_text
from astuner.types import Judgement, WorkflowOutput, WorkflowTask


class FormatJudge(BaseJudge):
    """1.0 where the reply matches each of `task_judge.format.must_match` and none of
    `must_not_match`, else 0.0. A pattern that takes too long on a reply makes it 0.0 too."""

    def __init__(self, config: Any) -> None:
        """Raises ConfigError for a pattern that is none, and without any."""
        super().__init__(config)
        section = config.astuner.task_judge.format
        self._wanted = [(pattern, True) for pattern in section.must_match]
        self._wanted += [(pattern, False) for pattern in section.must_not_match]
        if not self._wanted:
            raise ConfigError(
                "task_judge.format: there is no pattern; set must_match or must_not_match"
            )
        for pattern, _ in self._wanted:
            checked_pattern(pattern, "task_judge.format")

    async def prepare(self) -> None:
        """Have a process that searches."""
        await asyncio.to_thread(prepare_patterns)

    async def compute_reward(
        self, workflow_task: WorkflowTask, workflow_output: WorkflowOutput
    ) -> Judgement:
        text = final_text(workflow_task, workflow_output)
        if len(text) > MAX_TEXT_CHARS:
            note = f"It is longer than the {MAX_TEXT_CHARS} characters that are searched."
            return Judgement(reward=0.0, is_success=False, note=note)
        for pattern, is_wanted in self._wanted:
            try:
                found = await asyncio.to_thread(is_found, pattern, text)
            except TakesTooLong:
                note = f"Searching for {pattern!r} took too long."
                return Judgement(reward=0.0, is_success=False, note=note)
            if found != is_wanted:
                note = f"{'Nothing' if is_wanted else 'Something'} matches {pattern!r}."
                return Judgement(reward=0.0, is_success=False, note=note)
        return Judgement(reward=1.0, is_success=True)
