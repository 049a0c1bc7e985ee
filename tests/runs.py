"""A `Run` for tests that need no command around it."""

import io

from rich.console import Console

from astuner.backbone.judge_process import own_judges_of
from astuner.backbone.run import Run
from astuner.backbone.user_code import load_own_workflows, load_workflow, make_judge
from astuner.config.load import LoadedConfig
from astuner.console import RunConsole
from astuner.imports import module_folders
from astuner.run_dir import RunDir


def make_run(loaded: LoadedConfig, run_dir: RunDir, *, screen: io.StringIO | None = None) -> Run:
    """What `launch` makes of the configuration; `screen` takes what is said."""
    search_dirs = module_folders(loaded.conf_file)
    return Run(
        settings=loaded.settings,
        config=loaded.config,
        explicit_keys=loaded.explicit_keys,
        run_dir=run_dir,
        home=loaded.home,
        search_dirs=search_dirs,
        workflow_class=load_workflow(loaded.settings, search_dirs, where="test"),
        judge=make_judge(loaded.settings, loaded.config, search_dirs),
        own_workflows=load_own_workflows(loaded.settings, search_dirs),
        own_judges=own_judges_of(loaded.settings, loaded.config, search_dirs),
        console=RunConsole(Console(file=screen or io.StringIO(), width=200), is_live=False),
    )
