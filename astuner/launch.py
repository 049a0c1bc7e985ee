"""Starts a run: configuration, run directory, workflow, judge and backbone, undone in reverse.

Owns the event loop of the run, and that it ends whatever user code leaves behind.
"""

import asyncio
import contextlib
import importlib.metadata
import logging
import signal
import threading
from collections.abc import Callable, Collection, Coroutine, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from rich.console import Console

from astuner import log
from astuner.backbone.drafted_rubrics import WithRubrics
from astuner.backbone.earlier_run import find_named, find_newest
from astuner.backbone.environments_beside import WithEnvironments
from astuner.backbone.generated_tasks import WithGeneratedTasks
from astuner.backbone.grace import Grace
from astuner.backbone.judge_process import judge_of, own_judges_of
from astuner.backbone.models_closed import WithModelsClosed
from astuner.backbone.run import Backbone, Run, RunResult
from astuner.backbone.run_events import RunEvents
from astuner.backbone.traced_tasks import WithTracedTasks
from astuner.backbone.user_code import load_own_workflows, load_workflow
from astuner.config.load import LoadedConfig, save_resolved
from astuner.config.reader_choice import describe_choice
from astuner.config.secret import mask_values, shown_settings
from astuner.config.usage import describe_unused
from astuner.console import LoggedConsole, RunConsole, open_screen
from astuner.errors import BackboneError, ConfigError, Quit, exit_code_of, text_of
from astuner.imports import fix_sys_path, module_folders
from astuner.log_json import JsonLines
from astuner.logview.beside import viewer_beside, viewing_command
from astuner.machine.account import name_the_account
from astuner.machine.bytecode import leave_no_bytecode
from astuner.machine.caches import use_writable_caches
from astuner.pins.install import PINS, check_installed
from astuner.rollout.targets import check_not_empty
from astuner.rollout.threads import DaemonThreads
from astuner.run_dir import RunDir, naming_the_file
from astuner.task_judge.base_judge import BaseJudge
from astuner.workflow import Workflow

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherWork:
    """What is done in place of what the settings choose, with all that a run has around it."""

    name: str
    """What it is, in a word."""
    make_backbone: Callable[[], Backbone]
    run_dir: RunDir
    is_resumed: bool
    describe_saved: Callable[[], str]
    """What is kept where the grace after a signal is over before the work has ended."""


LEAVE_SECONDS = 5.0
"""How long what was cancelled may take to end once the run is over."""


def launch(
    loaded: LoadedConfig,
    *,
    workflow_class: type[Workflow] | None = None,
    judge_class: type[BaseJudge] | None = None,
    search_dirs: tuple[Path, ...] | None = None,
    resume: bool | str = False,
    with_ray: bool = False,
    ray_address: str | None = None,
    with_logview: bool = False,
    other: OtherWork | None = None,
) -> RunResult:
    """Run the job to its end and say where everything lies.

    `with_ray` and `ray_address` say on which Ray cluster, to backbones that need one.
    With `resume` it goes on in the newest run directory of the same name and settings that has a
    checkpoint, and begins anew without any; a text names the run, by folder or start time.
    `workflow_class` stands in for rollout.agentscope_workflow, `judge_class` for
    task_judge.judge_protocol; user modules and files are looked for in `search_dirs`, by default
    the current directory and those around the YAML. `with_logview` shows the run in a browser
    while it is at work. With `other`, that is done in place of tuning. Raises the errors of the
    tree; whatever was written before stays in the run directory.
    """
    is_json = loaded.settings.log.format == "json"
    screen = open_screen()
    lines = log.json_stderr(screen.file) if is_json else contextlib.nullcontext()
    with lines as json_lines:
        return _launch(
            loaded,
            workflow_class=workflow_class,
            judge_class=judge_class,
            search_dirs=search_dirs or module_folders(loaded.conf_file),
            resume=resume,
            with_ray=with_ray,
            ray_address=ray_address,
            with_logview=with_logview,
            other=other,
            screen=screen,
            json_lines=json_lines,
        )


def launch_warm_start(
    loaded: LoadedConfig,
    *,
    workflow_class: type[Workflow] | None = None,
    judge_class: type[BaseJudge] | None = None,
    search_dirs: tuple[Path, ...] | None = None,
    with_logview: bool = False,
) -> RunResult:
    """Do the warm start of the configuration alone, in a run directory of its own.

    Raises ConfigError where it names none, and else as `launch` does.
    """
    if loaded.settings.trainer_common.warm_start.source is None:
        raise ConfigError(
            "sft: trainer_common.warm_start.from is null, so nobody says what to learn; set it to "
            "tasks for the reference answers of the training tasks, or to traces with "
            "trainer_common.warm_start.path for a file of conversations"
        )
    run_dir = RunDir.create(loaded.experiment_dir, loaded.experiment_name, kind="training")
    return launch(
        loaded,
        workflow_class=workflow_class,
        judge_class=judge_class,
        search_dirs=search_dirs,
        with_logview=with_logview,
        other=OtherWork(
            name="sft",
            make_backbone=_make_warm_start,
            run_dir=run_dir,
            is_resumed=False,
            describe_saved=lambda: "a warm start that was not finished leaves nothing",
        ),
    )


def _launch(
    loaded: LoadedConfig,
    *,
    workflow_class: type[Workflow] | None,
    judge_class: type[BaseJudge] | None,
    search_dirs: tuple[Path, ...],
    resume: bool | str,
    with_ray: bool,
    ray_address: str | None,
    with_logview: bool,
    other: OtherWork | None,
    screen: Console,
    json_lines: JsonLines | None,
) -> RunResult:
    """As `launch`, with where to show what the run says; a log of objects goes to `json_lines`."""
    make_backbone = other.make_backbone if other else backbone_maker(loaded.settings.backbone)
    name_the_account()
    fix_sys_path()
    leave_no_bytecode(search_dirs)
    use_writable_caches(loaded.experiment_dir)
    workflow_class = workflow_class or load_workflow(
        loaded.settings, search_dirs, where=str(loaded.conf_file)
    )
    own_workflows = load_own_workflows(loaded.settings, search_dirs)
    if loaded.settings.rollout.trainable_targets is None:
        for workflow in (workflow_class, *own_workflows.values()):
            targets = workflow.model_fields["trainable_targets"].default
            check_not_empty(targets, f"workflow {workflow.__qualname__}")
    judge = judge_of(loaded.settings, loaded.config, search_dirs, judge_class)
    own_judges = own_judges_of(loaded.settings, loaded.config, search_dirs)
    if resume and loaded.settings.backbone == "debug":
        raise ConfigError(
            "--resume: the backbone debug has nothing to resume; use it with one that trains"
        )
    if other:
        run_dir, is_resumed = other.run_dir, other.is_resumed
    else:
        run_dir, is_resumed = _open_run_dir(loaded, resume=resume)
    is_live = loaded.settings.backbone != "debug"
    is_clustered = loaded.settings.backbone in PINS
    with naming_the_file(run_dir.log_file):
        log_handlers = log.install(run_dir.log_file, console=screen, json_lines=json_lines)
    shown_by = LoggedConsole() if json_lines else RunConsole(screen, is_live=is_live)
    if json_lines:
        json_lines.formatter.run = run_dir.run_name
    grace = Grace(
        loaded.settings.trainer_common.grace_seconds,
        describe_saved=other.describe_saved if other else partial(_describe_saved, run_dir),
    )
    with run_dir.in_use(), log_handlers, shown_by as console, grace:
        config_file = run_dir.new_config_file()
        with naming_the_file(config_file):
            save_resolved(loaded.config, config_file, shown_as=loaded.shown_as)
        what = other.name if other else f"backbone {loaded.settings.backbone}"
        console.say(f"astuner: {what}, run directory {run_dir.root}")
        if (with_ray or ray_address) and not is_clustered:
            console.say(f"the backbone {loaded.settings.backbone} runs without Ray; none is used")
        choice = describe_choice(loaded.settings.task_reader.type, loaded.explicit_keys)
        if choice is not None:
            console.say(choice)
        for line in describe_unused(loaded.explicit_keys, loaded.settings):
            console.say(line)
        run = Run(
            settings=loaded.settings,
            config=loaded.config,
            run_dir=run_dir,
            home=loaded.home,
            conf_file=loaded.conf_file if loaded.conf_file.is_file() else config_file,
            overrides=loaded.overrides,
            explicit_keys=loaded.explicit_keys,
            shown_as=loaded.shown_as,
            search_dirs=search_dirs,
            workflow_class=workflow_class,
            judge=judge,
            own_workflows=own_workflows,
            own_judges=own_judges,
            console=console,
            with_ray=with_ray,
            ray_address=ray_address,
            is_resumed=is_resumed,
            grace=grace,
        )
        if resume and not is_resumed:
            console.say("nothing to resume: no earlier run of this name has a checkpoint")
        events = RunEvents(run_dir)
        events.started(
            version=_version(),
            backbone=loaded.settings.backbone,
            model=shown_settings(loaded.settings, loaded.shown_as)["model"]["path"],
            is_resumed=is_resumed,
            conf_file=loaded.conf_file.name,
            config_file=config_file.name,
        )
        leave_seconds = min(LEAVE_SECONDS, grace.rest_seconds)
        with _shown(run, with_logview=with_logview):
            return _with_end_recorded(
                lambda: run_to_end(
                    _surrounded(make_backbone(), loaded),
                    run,
                    leave_seconds=leave_seconds,
                ),
                events,
                loaded,
            )


def _surrounded(backbone: Backbone, loaded: LoadedConfig) -> Backbone:
    """With all that a run needs before it starts; rollouts that measure how hard generated tasks
    are need rubrics and environments too."""
    traced = WithTracedTasks(backbone, file_of=loaded.traced_tasks_file)
    with_tasks = WithGeneratedTasks(traced, folder_of=loaded.generated_set_dir)
    return WithModelsClosed(WithRubrics(WithEnvironments(with_tasks)))


@contextlib.contextmanager
def _shown(run: Run, *, with_logview: bool) -> Iterator[None]:
    """With the viewer beside it where that is asked for; at the end, how to look at it later."""
    root, console = run.run_dir.root, run.console
    beside = viewer_beside(root, home=run.home, say=console.say, warn=console.warn)
    try:
        with beside if with_logview else contextlib.nullcontext():
            yield
    finally:
        places = (run.run_dir.metrics_file, run.run_dir.warm_start_file, run.run_dir.episodes_dir)
        if any(place.exists() for place in places):
            console.say(f"to look at it  {viewing_command(root, home=run.home)}")


def _with_end_recorded(
    work: Callable[[], RunResult], events: RunEvents, loaded: LoadedConfig
) -> RunResult:
    try:
        result = work()
    except SystemExit as error:
        ended = _ended_by_user_code(error)
        _record_failure(events, ended, loaded)
        raise ended from error
    except BaseException as error:
        _record_failure(events, error, loaded)
        raise
    events.ended(result.exit_code)
    return result


def _version() -> str | None:
    try:
        return importlib.metadata.version("astuner")
    except importlib.metadata.PackageNotFoundError:
        return None


def _record_failure(events: RunEvents, error: BaseException, loaded: LoadedConfig) -> None:
    """A signal is no error."""
    if isinstance(error, KeyboardInterrupt):
        events.ended(exit_code_of(error))
        return
    config = OmegaConf.to_container(loaded.config)
    assert isinstance(config, dict)
    message = mask_values(text_of(error), config, loaded.shown_as)
    events.ended(exit_code_of(error), {"kind": type(error).__name__, "message": message})


def _describe_saved(run_dir: RunDir) -> str:
    checkpoint = run_dir.latest_checkpoint()
    if checkpoint is None and run_dir.warm_start_dir.is_dir():
        return "what it learned after the warm start is lost; go on from there with --resume"
    if checkpoint is None:
        return "no checkpoint was saved before, so what it learned is lost"
    return f"what it learned after {checkpoint} is lost; go on from there with --resume"


def _open_run_dir(loaded: LoadedConfig, *, resume: bool | str) -> tuple[RunDir, bool]:
    """The run directory, and whether it is one to go on in."""
    if isinstance(resume, str):
        return find_named(loaded, resume), True
    earlier = find_newest(loaded) if resume else None
    if earlier is not None:
        return earlier, True
    is_debug = loaded.settings.backbone == "debug"
    run_dir = RunDir.create(
        loaded.experiment_dir,
        loaded.experiment_name,
        is_latest=not is_debug,
        kind="debug" if is_debug else "training",
    )
    return run_dir, False


def run_to_end(backbone: Backbone, run: Run, *, leave_seconds: float = LEAVE_SECONDS) -> RunResult:
    """Run in this thread, or in one of its own where a loop already runs, as in notebooks.

    Tasks and threads that the run leaves behind do not keep it, or the process, from ending.
    """
    loop = _RunLoop(leave_seconds)
    if not _is_loop_running():
        return loop.run(backbone.run(run))
    running = DaemonThreads().submit(loop.run, backbone.run(run))
    try:
        return running.result()
    except KeyboardInterrupt:
        loop.cancel()
        return running.result()


def _is_loop_running() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


class _RunLoop:
    """An event loop for one run: asyncio.run, but nothing is waited for without a bound."""

    def __init__(self, leave_seconds: float) -> None:
        self._leave_seconds = leave_seconds
        self._loop = asyncio.new_event_loop()
        self._threads = DaemonThreads()
        self._loop.set_default_executor(self._threads)
        self._task: asyncio.Task[RunResult] | None = None
        self._is_cancelled = False

    def run(self, work: Coroutine[Any, Any, RunResult]) -> RunResult:
        self._task = self._loop.create_task(work)
        try:
            return self._result(self._task)
        finally:
            self._end_tasks()
            self._end_generators()
            self._loop.close()
            self._threads.join(self._leave_seconds)

    def _result(self, task: asyncio.Task[RunResult]) -> RunResult:
        try:
            while not (task.done() or self._loop.is_closed()):
                # Over and over, since user code may stop the loop.
                with contextlib.suppress(RuntimeError):
                    self._loop.run_until_complete(task)
            return task.result()
        except asyncio.CancelledError as error:
            if self._is_cancelled:
                raise KeyboardInterrupt from error
            raise BackboneError(
                "the run ended because user code raised asyncio.CancelledError; catch it in the "
                "workflow or judge of the traceback in run.log"
            ) from error
        except (SystemExit, KeyboardInterrupt) as error:
            if not _is_by_user_code(error):
                raise
            # In a callback, which is no part of an episode; the run still saves, as at a signal.
            task.cancel()
            self._run_until_ended({task})
            raise _ended_by_user_code(error) from error

    def _run_until_ended(
        self, tasks: Collection[asyncio.Task[Any]], timeout: float | None = None
    ) -> set[asyncio.Task[Any]]:
        """Those that have not ended by then; their errors are nobody's, and end nothing."""
        wait = self._loop.create_task(asyncio.wait(tasks, timeout=timeout))
        while not wait.done():
            try:
                self._loop.run_until_complete(wait)
            except Quit:
                raise
            except (SystemExit, KeyboardInterrupt, RuntimeError):
                logger.debug("user code left behind stops the loop", exc_info=True)
        ended, unfinished = wait.result()
        for task in ended:
            _ = task.cancelled() or task.exception()
        return unfinished

    def cancel(self) -> None:
        """End the run from another thread; it then raises KeyboardInterrupt."""
        self._is_cancelled = True
        if self._task is not None:
            self._loop.call_soon_threadsafe(self._task.cancel)

    def _end_tasks(self) -> None:
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        if tasks:
            for task in self._run_until_ended(tasks, self._leave_seconds):
                logger.warning("task left behind, it ignores its cancellation: %r", task)

    def _end_generators(self) -> None:
        """Asynchronous generators that user code left in the middle."""
        ending = self._loop.create_task(self._loop.shutdown_asyncgens())
        if self._run_until_ended({ending}, self._leave_seconds):
            logger.warning("asynchronous generator left behind, its finally does not end")


def _is_by_user_code(error: BaseException) -> bool:
    """SystemExit always; KeyboardInterrupt where a signal would not raise it but be handled."""
    if isinstance(error, Quit):
        return False
    is_main = threading.current_thread() is threading.main_thread()
    is_raised_by_signal = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    return isinstance(error, SystemExit) or not (is_main and is_raised_by_signal)


def _ended_by_user_code(error: BaseException) -> BackboneError:
    how = f"sys.exit({error.code!r})" if isinstance(error, SystemExit) else type(error).__name__
    return BackboneError(
        f"user code ended the run by {how} outside of any episode; see the traceback in run.log, "
        "and raise an error there instead"
    )


def backbone_maker(name: str) -> Callable[[], Backbone]:
    """What makes the backbone of that name; the libraries it needs are imported when it is called.

    Raises ConfigError where a library of a clustered backbone is missing, or of another version
    than the one that it was made for.
    """
    if name in PINS:
        check_installed(name)
    makers = {
        "local": _make_local,
        "debug": _make_debug,
        "verl": _make_verl,
        "trinity": _make_trinity,
    }
    return makers[name]


def _make_local() -> Backbone:
    from astuner.backbone.local.backbone import LocalBackbone

    return LocalBackbone()


def _make_warm_start() -> Backbone:
    from astuner.backbone.local.warm_start_alone import WarmStartBackbone

    return WarmStartBackbone()


def _make_debug() -> Backbone:
    from astuner.backbone.debug.backbone import DebugBackbone

    return DebugBackbone()


def _make_verl() -> Backbone:
    from astuner.backbone.verl.backbone import VerlBackbone

    return VerlBackbone()


def _make_trinity() -> Backbone:
    from astuner.backbone.trinity.backbone import TrinityBackbone

    return TrinityBackbone()
