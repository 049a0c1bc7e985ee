"""The tasks of a run that are made from traces: found in their file, or made.

They are made in the command's process, before the backbone starts. From then on the configuration
names their file, which is what the reader and the processes of a cluster read.
"""

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from astuner.backbone.generated_tasks import with_values
from astuner.backbone.run import Backbone, Run, RunResult
from astuner.backbone.until_ended import before_run
from astuner.config.load import packaged_section
from astuner.config.sections.task_reader import FeedbackTracingSettings
from astuner.config.trace_steps import planned_steps
from astuner.config.traced_sets import addresses_of, traced_sources, tracing_key
from astuner.errors import BackboneError, ConfigError
from astuner.llm import LanguageModel, open_language_model
from astuner.trace_tasks.found import KnownPlace, TracePlace, found_address
from astuner.trace_tasks.known_steps import StepMaterial
from astuner.trace_tasks.known_task import KnownTask
from astuner.trace_tasks.making import TracedOutcome, TracingOrder, is_made, make_traced_tasks
from astuner.trace_tasks.traced_files import TracedFiles

FileOf = Callable[[str, FeedbackTracingSettings], Path]
"""The file of training tasks of a source."""
OpenPlace = Callable[..., TracePlace]
"""From an address and `format_name`."""


class WithTracedTasks:
    """A backbone whose runs have the tasks that come from traces made before they start."""

    def __init__(
        self, backbone: Backbone, *, file_of: FileOf, open_place: OpenPlace = KnownPlace
    ) -> None:
        self._backbone, self._file_of, self._open_place = backbone, file_of, open_place

    async def run(self, run: Run) -> RunResult:
        sections = traced_sources(run.settings.task_reader)
        if not sections:
            return await self._backbone.run(run)
        files = {name: self._file_of(name, section) for name, section in sections.items()}

        async def ensure_all() -> None:
            for name, section in sections.items():
                await self._ensure_tasks(run, name, section, files[name])

        notice = "nothing that was there is changed; verdicts so far are kept"
        if exit_code := await before_run(ensure_all(), run, notice=notice):
            return RunResult(run_dir=run.run_dir.root, exit_code=exit_code)
        values = {f"{tracing_key(name)}.train_output_path": str(files[name]) for name in sections}
        return await self._backbone.run(with_values(run, values))

    async def _ensure_tasks(
        self, run: Run, source: str, section: FeedbackTracingSettings, file: Path
    ) -> None:
        """Raises as `make_traced_tasks`, and BackboneError where none is left to train on."""
        addresses = addresses_of(section)
        if file.is_file() and (run.is_resumed or not addresses):
            run.console.say(f"tasks: those of {file} are used as they are")
            return
        if not addresses:
            raise ConfigError(
                f"{tracing_key(source)}.train_output_path: no such file: {file}; name one, or in "
                "base_url the traces to make it from"
            )
        order = self._order(run, source, section, file)
        if await asyncio.to_thread(is_made, order):
            run.console.say(f"tasks: those of {file} are used again; nothing is new in the traces")
            return
        run.console.phase("making tasks of traces")
        outcome = await make_traced_tasks(
            order, watch=partial(_show_progress, run), say=run.console.say
        )
        _tell(run, outcome, file)

    def _order(
        self, run: Run, source: str, section: FeedbackTracingSettings, file: Path
    ) -> TracingOrder:
        key = tracing_key(source)
        files = TracedFiles(file)
        addresses = [
            found_address(one, (run.home, *run.search_dirs), key=f"{key}.base_url")
            for one in addresses_of(section)
        ]
        return TracingOrder(
            key=key,
            places={one: self._open_place(one, format_name=section.format) for one in addresses},
            planned=planned_steps(section.filters),
            settings=_settings_of(section),
            files=files,
            make_material=partial(_material, run, section, files),
        )


def _settings_of(section: FeedbackTracingSettings) -> dict[str, Any]:
    """Where things are stored and what is shown makes no other tasks, and keys are secret."""
    planned = planned_steps(section.filters)
    no_matter = {"api_key", "db_path", "base_url", "print_reason", "max_thread"}
    asks = any(step.type == "llm_evaluate" for step in planned.steps)
    return {
        "format": section.format,
        "is_masked": planned.is_masked,
        "steps": [
            {"type": step.type, **step.params.model_dump(mode="json", exclude=no_matter)}
            for step in planned.steps
        ],
        "split": planned.split.model_dump(mode="json"),
        "model": section.alien_llm_model if asks else None,
    }


def _material(
    run: Run, section: FeedbackTracingSettings, files: TracedFiles, known: Mapping[str, KnownTask]
) -> StepMaterial:
    def open_model(max_parallel: int) -> LanguageModel:
        llm = run.settings.llm.model_copy(
            update={"max_parallel": max_parallel, "cache_dir": str(files.new_answers_dir())}
        )
        length = section.alien_llm_response_length
        return open_language_model(llm, section.alien_llm_model, max_new_tokens=length)

    params = packaged_section("task_reader")["data_generation"]["filter"]["params"]
    return StepMaterial(
        known=known,
        open_model=open_model,
        embedding=params,
        home=run.home,
        llm=run.settings.llm,
        say=run.console.say,
    )


def _show_progress(run: Run, num_traces: int, num_tasks: int) -> None:
    run.console.advance(num_tasks, num_tasks, note=f"tasks of {num_traces} traces")


def _tell(run: Run, outcome: TracedOutcome, file: Path) -> None:
    numbers = outcome.num_of_side
    num_tasks = sum(numbers.values())
    run.console.say(
        f"tasks: {num_tasks} in {file} and beside it ({numbers['train']} training, "
        f"{numbers['validation']} validation, {numbers['test']} test), {outcome.num_new} of them "
        f"new; what became of all traces: {outcome.sheet_file}"
    )
    if outcome.num_without_reference:
        run.console.say(
            f"{outcome.num_without_reference} tasks have no reference answer; a judge that "
            "compares answers cannot judge them: take one that grades, or write "
            "{type: reference, params: {required: true}} in filters"
        )
    if outcome.num_unread:
        run.console.warn(f"{outcome.num_unread} rows of the traces could not be read; see there")
    if not numbers["train"]:
        raise BackboneError(f"no task is left to train on; see {outcome.sheet_file}")
