"""The tasks of a run that are made from documents and examples: found in their folder, or made.

They are made in the command's process, before the backbone starts. From then on the configuration
names their folder, which is what the reader and the processes of a cluster read.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from astuner.backbone.generation_parts import card_of, open_parts, options_of
from astuner.backbone.measured_pass_rates import open_pass_rate_meter
from astuner.backbone.run import Backbone, Run, RunResult
from astuner.backbone.set_material import SetMaterial, SetOrder, read_material, set_order
from astuner.backbone.until_ended import before_run
from astuner.backbone.user_code import AnyJudge
from astuner.config.generated_sets import generated_sources, section_key
from astuner.config.resolved import resolved_config
from astuner.config.sections.data_generation import DataGenerationSettings
from astuner.config.sections.task_reader import TaskReaderSettings
from astuner.console import RunConsole
from astuner.errors import BackboneError
from astuner.task_generation.generated_set import TRAIN_FILE
from astuner.task_generation.generation import generate
from astuner.task_generation.outcome import GenerationOutcome, GenerationProgress
from astuner.task_generation.pass_rate import PassRateMeter
from astuner.task_generation.preview import Preview, preview
from astuner.task_generation.read_card import read_outcome
from astuner.task_generation.set_folder import is_complete

FolderOf = Callable[[str, DataGenerationSettings], Path]
"""The folder of the set of a source."""


class WithGeneratedTasks:
    """A backbone whose runs have the tasks that they read made before they start."""

    def __init__(self, backbone: Backbone, *, folder_of: FolderOf) -> None:
        self._backbone, self._folder_of = backbone, folder_of

    async def run(self, run: Run) -> RunResult:
        sections = generated_sources(run.settings.task_reader)
        if not sections:
            return await self._backbone.run(run)
        folders = {name: self._folder_of(name, section) for name, section in sections.items()}

        async def ensure_all() -> None:
            for name, section in sections.items():
                await _ensure_set(run, name, section, folders[name])

        notice = "the drafts so far are kept; the same command goes on from them"
        if exit_code := await before_run(ensure_all(), run, notice=notice):
            return RunResult(run_dir=run.run_dir.root, exit_code=exit_code)
        return await self._backbone.run(reading_from(run, folders))


def read_shown(order: SetOrder, console: RunConsole) -> SetMaterial:
    """As `read_material`, saying how much there is and what was not read."""
    console.phase("reading documents")
    material = read_material(order, say=console.say, on_progress=console.advance)
    documents = material.documents
    console.say(
        f"documents: {len(documents.documents)}, chunks: {len(material.chunks)}, seeds: "
        f"{len(material.seeds)}"
    )
    for unread in documents.unread:
        console.warn(f"not read: {unread.name}: {unread.reason}")
    return material


def found_complete(order: SetOrder, material: SetMaterial) -> GenerationOutcome | None:
    """What came of it, where it was made before and nothing is missing; no model is needed then."""
    if not is_complete(order.folder, material.fingerprint, order.section.task_num):
        return None
    return read_outcome(order.folder)


async def make_set(
    order: SetOrder, material: SetMaterial, *, console: RunConsole, run: Run | None
) -> GenerationOutcome:
    """Make the set of an order, or go on with it. `run` is what does rollouts where pass rates are
    measured, else None.

    Raises as `generate`; whatever ends it from outside leaves what was paid in the folder.
    """
    async with (
        _open_meter(order, console, run) as meter,
        open_parts(order, material, meter=meter, say=console.say) as parts,
    ):
        console.phase("making tasks")
        return await generate(
            parts,
            options_of(order.section),
            folder=order.folder,
            fingerprint=material.fingerprint,
            card=card_of(order, material),
            watch=lambda progress: show_progress(console, progress),
            say=console.say,
        )


async def preview_set(
    order: SetOrder, material: SetMaterial, *, num_drafts: int, console: RunConsole
) -> Preview:
    """The first drafts of the set; see `preview`."""
    async with open_parts(order, material, meter=None, say=console.say) as parts:
        console.phase("making drafts")
        return await preview(
            parts,
            options_of(order.section),
            folder=order.folder,
            num_drafts=num_drafts,
            watch=console.advance,
        )


async def _ensure_set(run: Run, source: str, section: DataGenerationSettings, folder: Path) -> None:
    """Raises BackboneError where no task was made."""
    order = set_order(
        run.settings,
        run.config,
        source=source,
        section=section,
        folder=folder,
        home=run.home,
        search_dirs=run.search_dirs,
        judge_class=_judge_class(run),
    )
    if run.is_resumed and (folder / TRAIN_FILE).is_file():
        run.console.say(f"tasks: those of {folder} are used again, as when the run began")
        return
    material = await asyncio.to_thread(read_shown, order, run.console)
    if found_complete(order, material) is not None:
        run.console.say(f"tasks: those of {folder} are used again")
        return
    run.console.say(f"tasks: {section.llm_model} makes {section.task_num} in {folder}")
    outcome = await make_set(
        order, material, console=run.console, run=_of_source(run, source, section)
    )
    if not outcome.num_training:
        raise BackboneError(
            f"{order.key}: no training task was made in {folder}: {outcome.ended_by}; "
            "`astuner generate --preview 5` shows drafts with the reasons of the gates"
        )
    if outcome.ended_by is not None:
        run.console.warn(
            f"{outcome.num_tasks} of {outcome.num_wanted} tasks were made: {outcome.ended_by}"
        )


def _judge_class(run: Run) -> type[AnyJudge] | None:
    """Of the judge that the run has, which may stand in a notebook; None where it is at work in
    other processes."""
    if run.judge is None or run.settings.task_judge.judge_in_process:
        return None
    return type(run.judge)


def _of_source(run: Run, source: str, section: DataGenerationSettings) -> Run:
    """The run as it would be with the tasks of one source alone."""
    reader = run.settings.task_reader.model_copy(
        update={"type": "data_generation", "data_generation": section}
    )
    return replace(
        run,
        settings=run.settings.model_copy(update={"task_reader": reader}),
        workflow_class=run.own_workflows.get(source, run.workflow_class),
        judge=run.own_judges.get(source, run.judge),
        own_workflows={},
        own_judges={},
    )


@contextlib.asynccontextmanager
async def _open_meter(
    order: SetOrder, console: RunConsole, run: Run | None
) -> AsyncIterator[PassRateMeter | None]:
    if not order.section.pass_rate.enabled:
        yield None
        return
    assert run is not None, "checked by whoever made the order"
    async with open_pass_rate_meter(
        run,
        folder=order.folder,
        watch=lambda done, total: console.advance(done, total, note="attempts, for pass rates"),
    ) as meter:
        yield meter


def reading_from(run: Run, folders: Mapping[str, Path]) -> Run:
    """The run with these folders in its configuration, by source."""
    return with_values(
        run, {f"{section_key(source)}.output_dir": str(path) for source, path in folders.items()}
    )


def with_values(run: Run, changes: Mapping[str, str]) -> Run:
    """The run with these settings of its reader, by dotted key."""
    values = OmegaConf.to_container(run.config, resolve=True)
    assert isinstance(values, dict)
    for key, value in changes.items():
        *parents, name = key.split(".")
        section: Any = values
        for parent in parents:
            section = section[parent]
        section[name] = value
    config = resolved_config({str(key): value for key, value in values.items()})
    reader = OmegaConf.to_container(config.astuner.task_reader, resolve=True)
    settings = run.settings.model_copy(
        update={"task_reader": TaskReaderSettings.model_validate(reader)}
    )
    return replace(run, settings=settings, config=config)


def show_progress(console: RunConsole, progress: GenerationProgress) -> None:
    usage = progress.usage
    notes = [f"{progress.num_rejected} rejected"]
    if progress.num_failed:
        notes.append(f"{progress.num_failed} failed")
    notes.append(f"{usage.num_tokens} tokens")
    if progress.cost is not None:
        notes.append(f"cost {progress.cost:.4f}")
    if progress.is_measuring:
        notes.append("measuring pass rates")
    console.advance(progress.num_accepted, progress.num_wanted, note="  ".join(notes))
