"""With which settings a run's episodes are judged again, and by which judges."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from astuner.backbone.judge_process import judge_of
from astuner.config.load import LoadedConfig, load_config, load_saved
from astuner.config.source import text_override
from astuner.errors import ConfigError
from astuner.imports import module_folders
from astuner.logview.reading.run_reader import RunReader
from astuner.logview.reading.saved_config import config_file
from astuner.rollout.judging import Judging

_JUDGE = "astuner.task_judge.judge_protocol"
_CACHE = "astuner.llm.cache_dir"


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedJudge:
    """A judge that is ready to be made for a run."""

    name: str
    """Its class, or where several are called so, its whole path."""
    path: str
    """As in `task_judge.judge_protocol`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeJudge:
    """A judge, with the settings of one run."""

    judging: Judging
    rubric: str | None
    """What it holds answers to, in words; None where it has no such text, or tells of none."""
    max_parallel: int
    """Questions that it is asked at the same time."""


def named_judges(paths: Sequence[str]) -> list[NamedJudge]:
    """Raises ConfigError for one that is named twice."""
    if doubled := next((path for path, number in Counter(paths).items() if number > 1), None):
        raise ConfigError(f"judge: --judge {doubled} is given twice; name each judge once")
    short = [path.rpartition("->")[2] for path in paths]
    return [
        NamedJudge(name=name if short.count(name) == 1 else path, path=path)
        for name, path in zip(short, paths, strict=True)
    ]


def judge_settings(
    run: RunReader, *, conf_file: Path | None, overrides: Sequence[str], asks_again: bool
) -> LoadedConfig:
    """The settings that the run saved, with those of the file and the overrides over them.

    Where each question is asked several times, answers are not taken from a cache, unless an
    override names one. Raises ConfigError, NotFoundError where the run saved none and no file is
    given.
    """
    given = [f"{_CACHE}=null", *overrides] if asks_again else overrides
    if conf_file is not None and not run.config_files():
        return load_config(conf_file, given)
    return load_saved(config_file(run.root, None), given, conf_file=conf_file)


def make_named(
    judge: NamedJudge,
    run: RunReader,
    *,
    conf_file: Path | None,
    overrides: Sequence[str],
    asks_again: bool,
) -> MadeJudge:
    """Make the judge for a run. Raises ConfigError where its class cannot be found or made.

    It is looked for from the current directory, and beside the file of settings.
    """
    loaded = judge_settings(
        run,
        conf_file=conf_file,
        overrides=[*overrides, text_override(_JUDGE, judge.path)],
        asks_again=asks_again,
    )
    settings = loaded.settings
    folders = module_folders(conf_file) if conf_file else (Path.cwd(),)
    made = judge_of(settings, loaded.config, folders)
    assert made is not None
    in_process = settings.task_judge.judge_in_process
    rubric = getattr(made, "rubric", None)
    return MadeJudge(
        judging=Judging(
            made,
            # In processes each answer has its deadline from when one is free.
            timeout_seconds=math.inf if in_process else settings.task_judge.judge_timeout_seconds,
            madness_reward=settings.rollout.agent_madness_reward,
        ),
        rubric=rubric if isinstance(rubric, str) and rubric.strip() else None,
        max_parallel=settings.rollout.max_env_worker,
    )
