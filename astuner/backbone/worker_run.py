"""A run as it travels to the processes of a cluster, or of its agents, and is made anew in each.

Workflow and judge do not travel: each process imports them from the path in the settings.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from omegaconf import OmegaConf
from rich.console import Console

from astuner.backbone.judge_process import judge_of, own_judges_of
from astuner.backbone.run import Run
from astuner.backbone.user_code import load_own_workflows, load_workflow
from astuner.config.resolved import resolved_config
from astuner.config.schema import Settings
from astuner.console import RunConsole
from astuner.imports import fix_sys_path
from astuner.machine.bytecode import leave_no_bytecode
from astuner.run_dir import RunDir
from astuner.task_reader.sources import task_sources


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRun:
    """What a worker needs to make its own `Run`; plain data that can be pickled."""

    settings: Settings
    config: dict[str, Any]
    explicit_keys: frozenset[str]
    run_dir: Path
    """Absolute, on the machine of the command; workers write nothing there."""
    search_dirs: tuple[Path, ...]
    home: Path
    """The current directory of the command, which each worker has as its own, or in a copy."""
    keys: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Variables of the command's environment that settings name for their keys and tokens: those of
    a cluster that was there before are others. Here they appear in no log."""

    @classmethod
    def of(cls, run: Run) -> Self:
        config = OmegaConf.to_container(run.config, resolve=True)
        assert isinstance(config, dict)
        return cls(
            settings=run.settings,
            config={str(key): value for key, value in config.items()},
            explicit_keys=run.explicit_keys,
            run_dir=run.run_dir.root,
            search_dirs=run.search_dirs,
            home=run.home,
            keys={name: os.environ[name] for name in _key_names(run) if name in os.environ},
        )

    def open(self, *, judges: bool = True) -> Run:
        """Make the run in this process, without what judges where that is done in another.

        Raises ConfigError for a workflow or judge that cannot be imported here.
        """
        fix_sys_path()
        for name, key in self.keys.items():
            os.environ.setdefault(name, key)
        config = resolved_config(self.config)
        search_dirs = self._local_dirs()
        leave_no_bytecode(search_dirs)
        where = f"worker on {os.uname().nodename}"
        return Run(
            settings=self.settings,
            config=config,
            explicit_keys=self.explicit_keys,
            run_dir=RunDir(root=self.run_dir),
            home=Path.cwd(),
            search_dirs=search_dirs,
            workflow_class=load_workflow(self.settings, search_dirs, where=where),
            judge=judge_of(self.settings, config, search_dirs) if judges else None,
            own_workflows=load_own_workflows(self.settings, search_dirs),
            own_judges=own_judges_of(self.settings, config, search_dirs) if judges else {},
            console=RunConsole(Console(stderr=True, highlight=False), is_live=False),
        )

    def _local_dirs(self) -> tuple[Path, ...]:
        """The folders of user code here: below this worker's own directory, else as they were."""
        here = Path.cwd()
        own = (here / path.relative_to(self.home) for path in self.search_dirs if self._has(path))
        return tuple(dict.fromkeys((*own, *self.search_dirs)))

    def _has(self, path: Path) -> bool:
        return path.is_relative_to(self.home)


def _key_names(run: Run) -> set[str]:
    settings = run.settings
    sources = task_sources(settings.task_reader).values()
    return {
        settings.llm.api_key_env,
        settings.rollout.untrained_model.api_key_env,
        *(source.settings["token_env"] for source in sources if source.settings.get("token_env")),
    }
