"""What is to be examined, and the run that it is asked about: made, but never started."""

import contextlib
import shutil
import tempfile
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from astuner.backbone.judge_process import judge_of, own_judges_of
from astuner.backbone.run import Run
from astuner.backbone.user_code import load_own_workflows, load_workflow
from astuner.config.load import LoadedConfig, load_config
from astuner.config.source import text_override
from astuner.console import LoggedConsole, RunConsole
from astuner.errors import AstunerError
from astuner.examining.finding import SUBJECTS, DoctorFinding, Remarks, Subject
from astuner.imports import fix_sys_path, module_folders
from astuner.machine.bytecode import leave_no_bytecode
from astuner.machine.caches import use_writable_caches
from astuner.run_dir import RunDir
from astuner.workflow import Workflow

_NEEDS: dict[Subject, frozenset[Subject]] = {
    "forecast": frozenset(["data", "model", "workflow"]),
    "workflow": frozenset(["data", "model"]),
    "judge": frozenset(["data"]),
    "model": frozenset(["data"]),
}
"""What has to be done for a subject, though it is not asked about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExaminationOrder:
    """What somebody asked for."""

    conf_file: Path
    overrides: Sequence[str] = ()
    subjects: Collection[Subject] = SUBJECTS
    model: str | None = None
    """A folder or hub name in place of model.path; None: that of the settings."""
    is_quick: bool = False
    """Load no weights and run no episode."""
    check_seconds: float = 300.0
    """Of each check."""
    keeps_files: bool = False
    """Leave the episodes that ran on the disk."""

    def does(self, subject: Subject) -> bool:
        """Whether anything needs this subject's work."""
        return subject in self.subjects or any(
            subject in _NEEDS.get(asked, ()) for asked in self.subjects
        )

    def load(self) -> LoadedConfig:
        """The settings. Raises ConfigError as the run would."""
        if self.model is None:
            return load_config(self.conf_file, self.overrides)
        return _load_with(self.conf_file, self.overrides, self.model)


def _load_with(conf_file: Path, overrides: Sequence[str], model: str) -> LoadedConfig:
    """With another model, and limits that this one can have where it is a smaller one."""
    named = str(Path(model).expanduser().absolute()) if Path(model).expanduser().is_dir() else model
    given = [
        *overrides,
        text_override("astuner.model.path", named),
        "astuner.model.revision=null",
    ]
    loaded = load_config(conf_file, given)
    longest = _longest(named)
    rollout, data = loaded.settings.rollout, loaded.settings.data
    if longest is None or rollout.max_model_len <= longest:
        return loaded
    given.append(f"astuner.rollout.max_model_len={longest}")
    prompt = data.max_prompt_length if data.max_prompt_length < longest else longest // 2
    response = min(data.max_response_length, longest - prompt)
    given += [
        f"astuner.data.max_prompt_length={prompt}",
        f"astuner.data.max_response_length={response}",
    ]
    if rollout.max_response_length_in_one_turn > longest:
        given.append(f"astuner.rollout.max_response_length_in_one_turn={longest // 2}")
    return load_config(conf_file, given)


def _longest(model: str) -> int | None:
    from astuner.models.source import load_config as load_model_config

    config = load_model_config(model)
    return config and getattr(config.get_text_config(), "max_position_embeddings", None)


@contextlib.contextmanager
def made_run(
    loaded: LoadedConfig, console: RunConsole, *, keeps_files: bool
) -> Iterator[tuple[Run, list[DoctorFinding]]]:
    """The run as `launch` would make it, in a folder of its own that is gone at the end; and what
    was wrong with its workflow and judge. A judge that cannot be made is None there."""
    search_dirs = module_folders(loaded.conf_file)
    fix_sys_path()
    leave_no_bytecode(search_dirs)
    use_writable_caches(loaded.experiment_dir)
    folder = Path(tempfile.mkdtemp(prefix="astuner-doctor-"))
    try:
        yield _make(loaded, search_dirs, RunDir(root=folder))
    finally:
        if keeps_files:
            console.say(f"the episodes are kept in {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)


def _make(
    loaded: LoadedConfig, search_dirs: tuple[Path, ...], run_dir: RunDir
) -> tuple[Run, list[DoctorFinding]]:
    settings, config = loaded.settings, loaded.config
    findings: list[DoctorFinding] = []
    workflow, own_workflows = Workflow, {}
    try:
        workflow = load_workflow(settings, search_dirs, where=str(loaded.conf_file))
        own_workflows = load_own_workflows(settings, search_dirs)
    except AstunerError as error:
        findings.append(Remarks("workflow").wrong("import", str(error)))
    judge, own_judges = None, {}
    try:
        judge = judge_of(settings, config, search_dirs)
        own_judges = own_judges_of(settings, config, search_dirs)
    except AstunerError as error:
        findings.append(Remarks("judge").wrong("import", str(error)))
    run = Run(
        settings=settings,
        config=config,
        run_dir=run_dir,
        home=loaded.home,
        search_dirs=search_dirs,
        workflow_class=workflow,
        judge=judge,
        own_workflows=own_workflows,
        own_judges=own_judges,
        console=LoggedConsole(),  # what a run says at its start is no finding
        explicit_keys=loaded.explicit_keys,
        shown_as=loaded.shown_as,
    )
    return run, findings
