"""Starts a run: configuration, run directory, workflow, judge and backbone, undone in reverse."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rich.console import Console

from astuner import log
from astuner.backbone.run import Backbone, Run, RunResult
from astuner.config.load import LoadedConfig, save_resolved
from astuner.config.usage import describe_unused
from astuner.console import RunConsole
from astuner.errors import ConfigError
from astuner.imports import load_class, module_folders
from astuner.rollout.episode import Judge
from astuner.run_dir import RunDir
from astuner.task_judge.base_judge import BaseJudge
from astuner.workflow import Workflow


def launch(
    loaded: LoadedConfig,
    *,
    workflow_class: type[Workflow] | None = None,
    search_dirs: tuple[Path, ...] | None = None,
) -> RunResult:
    """Run the job to its end and say where everything lies.

    `workflow_class` stands in for rollout.agentscope_workflow; user modules and files are looked
    for in `search_dirs`, by default the current directory and those around the YAML. Raises the
    errors of the tree; whatever was written before stays in the run directory.
    """
    make_backbone = backbone_maker(loaded.settings.backbone)
    search_dirs = search_dirs or module_folders(loaded.conf_file)
    workflow_class = workflow_class or load_workflow(loaded, search_dirs)
    judge = make_judge(loaded, search_dirs)
    run_dir = RunDir.create(loaded.experiment_dir, loaded.experiment_name)
    is_live = loaded.settings.backbone != "debug"
    screen = Console(stderr=True, highlight=False)
    with (
        log.install(run_dir.log_file, console=screen),
        RunConsole(screen, is_live=is_live) as console,
    ):
        save_resolved(loaded.config, run_dir.config_file)
        console.say(f"astuner: backbone {loaded.settings.backbone}, run directory {run_dir.root}")
        for line in describe_unused(loaded.explicit_keys, loaded.settings):
            console.say(line)
        run = Run(
            settings=loaded.settings,
            config=loaded.config,
            run_dir=run_dir,
            search_dirs=search_dirs,
            workflow_class=workflow_class,
            judge=judge,
            console=console,
        )
        return _run_to_end(make_backbone(), run)


def _run_to_end(backbone: Backbone, run: Run) -> RunResult:
    """Run in this thread, or in one of its own where a loop already runs, as in notebooks."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(backbone.run(run))
    with ThreadPoolExecutor(1, thread_name_prefix="astuner-run") as thread:
        return thread.submit(asyncio.run, backbone.run(run)).result()


def backbone_maker(name: str) -> Callable[[], Backbone]:
    """What makes the backbone of that name; the libraries it needs are imported when it is called.

    Raises ConfigError for a backbone that this version does not have.
    """
    makers = {"local": _make_local, "debug": _make_debug}
    if name not in makers:
        raise ConfigError(
            f"astuner.backbone: {name!r} is not available in this version; "
            f"available are {', '.join(makers)}"
        )
    return makers[name]


def _make_local() -> Backbone:
    from astuner.backbone.local.backbone import LocalBackbone

    return LocalBackbone()


def _make_debug() -> Backbone:
    from astuner.backbone.debug import DebugBackbone

    return DebugBackbone()


def load_workflow(loaded: LoadedConfig, search_dirs: tuple[Path, ...]) -> type[Workflow]:
    """Import the workflow class. Raises ConfigError with what its module does contain."""
    path = loaded.settings.rollout.agentscope_workflow
    if path is None:
        raise ConfigError(
            f"{loaded.conf_file}: rollout.agentscope_workflow is not set; "
            "name your workflow class, for example my_agent.my_agent->MyWorkflow"
        )
    return load_class(path, base=Workflow, search_dirs=search_dirs)


def make_judge(loaded: LoadedConfig, search_dirs: tuple[Path, ...]) -> Judge | None:
    """Make the configured judge; None when no judge is named."""
    path = loaded.settings.task_judge.judge_protocol
    if path is None:
        return None
    return load_class(path, base=BaseJudge, search_dirs=search_dirs)(loaded.config)
