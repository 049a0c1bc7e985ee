"""The sets that a configuration asks for, made or looked at until something ends it."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from astuner.backbone.drafted_rubrics import with_rubrics
from astuner.backbone.generated_tasks import found_complete, make_set, preview_set, read_shown
from astuner.backbone.judge_process import judge_of, own_judges_of
from astuner.backbone.run import Run
from astuner.backbone.set_material import SetOrder, set_order
from astuner.backbone.until_ended import until_ended
from astuner.backbone.user_code import load_own_workflows, load_workflow
from astuner.config.check import sections_to_make
from astuner.config.load import LoadedConfig
from astuner.console import RunConsole
from astuner.errors import AstunerError, BackboneError, Quit, UnreadableError
from astuner.imports import fix_sys_path, module_folders
from astuner.machine.bytecode import leave_no_bytecode
from astuner.rollout.threads import DaemonThreads
from astuner.run_dir import RunDir
from astuner.task_generation.documents.document import UnreadDocument
from astuner.task_generation.outcome import GenerationOutcome
from astuner.task_generation.preview import Preview
from astuner.task_generation.read_card import read_outcome
from astuner.task_judge.base_judge import BaseJudge
from astuner.task_reader.generated_folder import GeneratedFolderReader
from astuner.types import Task
from astuner.workflow import Workflow

Made = TypeVar("Made")


@dataclass(frozen=True, slots=True, kw_only=True)
class UserClasses:
    """What stands in for paths of the settings, in Python."""

    search_dirs: tuple[Path, ...]
    """Where modules, documents and seeds are looked for."""
    workflow: type[Workflow] | None = None
    judge: type[BaseJudge] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeSet:
    """What came of one order."""

    outcome: GenerationOutcome
    unread: Sequence[UnreadDocument]

    @property
    def num_tasks(self) -> int:
        return self.outcome.num_tasks

    def check_has_tasks(self) -> None:
        """Raises BackboneError where it has no task to train on."""
        if not self.outcome.num_training:
            raise BackboneError(
                f"no training task was made in {self.outcome.folder}: {self.outcome.ended_by}; "
                "`astuner generate --preview 5` shows drafts with the reasons of the gates"
            )


@dataclass(slots=True)
class MadeSets:
    """How far it came. Filled by `make_sets` only."""

    sets: list[MadeSet] = field(default_factory=list)
    ended_by: AstunerError | Quit | None = None
    """What ended it early; None where nothing did."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratedTasks:
    """A set, and where it lies."""

    folder: Path
    training: Sequence[Task]
    validation: Sequence[Task]
    """Of other documents than those of training; may be empty."""
    test: Sequence[Task] = ()
    """Of other documents again; no run trains on them or chooses by them."""


def made_tasks(made: MadeSets) -> GeneratedTasks:
    """Those of the only set. Raises what ended it, and BackboneError where it has no task."""
    if made.ended_by is not None:
        raise made.ended_by
    (one,) = made.sets
    one.check_has_tasks()
    reader = GeneratedFolderReader(one.outcome.folder)
    return GeneratedTasks(
        folder=one.outcome.folder,
        training=reader.get_training_tasks(),
        validation=reader.get_validation_tasks(),
        test=reader.get_test_tasks(),
    )


@dataclass(slots=True)
class PreviewedSets:
    """How far it came. Filled by `preview_sets` only."""

    previews: list[Preview] = field(default_factory=list)
    ended_by: AstunerError | Quit | None = None


def orders_of(loaded: LoadedConfig, classes: UserClasses | None = None) -> list[SetOrder]:
    """One for each source of the configuration that is made."""
    known = classes or UserClasses(search_dirs=module_folders(loaded.conf_file))
    fix_sys_path()
    leave_no_bytecode(known.search_dirs)
    return [
        set_order(
            loaded.settings,
            loaded.config,
            source=source,
            section=section,
            folder=loaded.generated_set_dir(source, section),
            home=loaded.home,
            search_dirs=known.search_dirs,
            judge_class=known.judge,
        )
        for source, section in sections_to_make(loaded.settings).items()
    ]


def make_sets(
    loaded: LoadedConfig, console: RunConsole, *, classes: UserClasses | None = None
) -> MadeSets:
    """Make all of them, or go on with them, one after the other.

    Raises ConfigError and TaskReadError for what cannot be meant or read, before anything is paid.
    """
    orders = orders_of(loaded, classes)
    materials = [read_shown(order, console) for order in orders]
    made = MadeSets()

    async def make_all() -> None:
        for order, material in zip(orders, materials, strict=True):
            unread = material.documents.unread
            if (outcome := found_complete(order, material)) is not None:
                console.say(f"all tasks are in {order.folder} already")
                made.sets.append(MadeSet(outcome=outcome, unread=unread))
                continue
            run = await _run_for_rollouts(loaded, order, console, classes)
            try:
                outcome = await make_set(order, material, console=console, run=run)
            except (AstunerError, asyncio.CancelledError):
                with contextlib.suppress(UnreadableError):  # where nothing was made, there is none
                    as_far = read_outcome(order.folder)
                    made.sets.append(MadeSet(outcome=as_far, unread=unread))
                raise
            made.sets.append(MadeSet(outcome=outcome, unread=unread))

    made.ended_by = _carried_out(make_all, console)
    return made


def preview_sets(loaded: LoadedConfig, console: RunConsole, *, num_drafts: int) -> PreviewedSets:
    """Make so many drafts of each, and keep nothing but the answers. Raises as `make_sets`."""
    orders = orders_of(loaded)
    materials = [read_shown(order, console) for order in orders]
    seen = PreviewedSets()

    async def preview_all() -> None:
        for order, material in zip(orders, materials, strict=True):
            seen.previews.append(
                await preview_set(order, material, num_drafts=num_drafts, console=console)
            )

    seen.ended_by = _carried_out(preview_all, console)
    return seen


def _carried_out(
    work: Callable[[], Awaitable[None]], console: RunConsole
) -> AstunerError | Quit | None:
    """Do it in an event loop of its own, also where one runs already, as in notebooks."""
    notice = "what was made so far is kept; the same command goes on from there"
    making = until_ended(work, console, notice=notice)
    if _is_loop_running():
        return DaemonThreads().submit(asyncio.run, making).result()
    return asyncio.run(making)


def _is_loop_running() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


async def _run_for_rollouts(
    loaded: LoadedConfig, order: SetOrder, console: RunConsole, classes: UserClasses | None
) -> Run | None:
    """What measures pass rates, where the settings ask for that."""
    if not order.section.pass_rate.enabled:
        return None
    settings, config, search_dirs = loaded.settings, loaded.config, order.search_dirs
    workflow = classes and classes.workflow
    run = Run(
        settings=settings,
        config=config,
        run_dir=RunDir(root=order.folder),
        home=loaded.home,
        search_dirs=search_dirs,
        workflow_class=workflow
        or load_workflow(settings, search_dirs, where=str(loaded.conf_file)),
        judge=judge_of(settings, config, search_dirs, classes and classes.judge),
        own_workflows=load_own_workflows(settings, search_dirs),
        own_judges=own_judges_of(settings, config, search_dirs),
        console=console,
        explicit_keys=loaded.explicit_keys,
        shown_as=loaded.shown_as,
    )
    return await with_rubrics(run)
