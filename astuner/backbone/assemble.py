"""Builds the rollout half of a run from its settings: tasks, pool, gateway, the user's functions.

Together with `chats.py` the only place where settings of the rollout are read; everything below
gets plain values.
"""

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

from astuner.algorithm.advantage import ADVANTAGES, checked_advantages
from astuner.algorithm.batch import Estimator
from astuner.algorithm.step_advantage import STEP_ADVANTAGES, StepAdvantage
from astuner.backbone.chats import MakeChat, distributions, make_untrained_chats
from astuner.backbone.overlong import CountTokens, without_overlong
from astuner.backbone.run import Run
from astuner.config.reader_choice import section_of
from astuner.env_service.instance import Environments
from astuner.errors import ConfigError
from astuner.gateway.gateway import Gateway, GatewayOptions
from astuner.imports import load_object
from astuner.rollout.environment_around import EnvironmentAround
from astuner.rollout.episode import EpisodeSettings, run_attempt
from astuner.rollout.held_lock import lock_supervised
from astuner.rollout.judging import Judging
from astuner.rollout.judging_by_source import JudgingBySource
from astuner.rollout.pool import PoolSettings, RolloutPool, RunAttempt
from astuner.rollout.surroundings import GatewayDoor, Surrounding
from astuner.task_reader import make_task_reader
from astuner.task_reader.local_path import find_path
from astuner.types import Task

_LEAVE_SECONDS = 10.0
_LEAST_LOCK_SECONDS, _MOST_LOCK_SECONDS = 10.0, 60.0
_LOCK_ADVICE = (
    "Bound what it computes: patterns by the package `regex` with timeout=, numbers by their size, "
    "a judge by task_judge.judge_in_process=true"
)
_RESUME_ADVICE = f"{_LOCK_ADVICE}. Where the run has a checkpoint, --resume goes on from it"


def read_tasks(run: Run) -> tuple[list[Task], list[Task]]:
    """Training and validation tasks of the configured reader, without those that cannot fit."""
    settings = run.settings.task_reader
    section = getattr(settings, section_of(settings.type), None)
    reader = make_task_reader(
        settings.type, section.model_dump() if section else {}, run.search_dirs
    )
    training, validation = reader.get_training_tasks(), reader.get_validation_tasks()
    if not _has_tokenizer(run) or not run.settings.data.filter_overlong_prompts:
        return training, validation
    fitting = partial(
        without_overlong,
        max_tokens=run.settings.data.max_prompt_length,
        load_counter=lambda: _token_counter(run),
    )
    return fitting(training, split="training"), fitting(validation, split="validation")


def _has_tokenizer(run: Run) -> bool:
    """A server that debug asks has its own, which is not known here."""
    is_remote = run.settings.backbone == "debug" and run.settings.debug.openai_base_url is not None
    return run.settings.model.path is not None and not is_remote


def _token_counter(run: Run) -> CountTokens:
    tokenizer = load_tokenizer(run)
    if tokenizer is None:
        return lambda _text: 0
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False))


def load_tokenizer(run: Run) -> Any | None:
    """Of the model, where no engine has it at hand; None where it cannot be had."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(find_model(run))
    except Exception:  # noqa: BLE001  # the loading of the model says what is wrong with it
        return None


def find_model(run: Run) -> str:
    """The folder of model.path, or its name on the hub.

    A model.revision is brought from the hub here; then it is a folder too. Raises ConfigError where
    there is no such model.
    """
    path, revision = run.settings.model.path, run.settings.model.revision
    if path is None:
        raise ConfigError("model.path is not set; give a hub name or a folder")
    folder = find_path(path, run.search_dirs)
    if revision is None:
        return str(folder or path)
    if folder is not None:
        raise ConfigError(
            f"model.revision: {folder} is a folder and has no revisions, found {revision!r}; set "
            "it to null, or model.path to a name on the hub"
        )
    from astuner.models.hub import fetch_revision

    return str(fetch_revision(path, revision))


def load_advantage(run: Run) -> Estimator:
    """The function of trainer_common.algorithm.adv_estimator."""
    function = load_own_function(run, "adv_estimator")
    algorithm = run.settings.trainer_common.algorithm
    if algorithm.adv_estimator in STEP_ADVANTAGES:
        return StepAdvantage(
            function=STEP_ADVANTAGES[algorithm.adv_estimator],
            gamma=run.settings.rollout.gamma,
            weight=algorithm.step_advantage_weight,
        )
    if function is None:
        return ADVANTAGES[algorithm.adv_estimator]
    return lambda groups: checked_advantages(function, groups)


def load_own_function(run: Run, setting: str) -> Any:
    """The user's function, where the setting of trainer_common.algorithm names one by its path.

    None where it does not; raises ConfigError where the path leads to something else.
    """
    value = getattr(run.settings.trainer_common.algorithm, setting)
    if "->" not in value:
        return None
    function = load_object(value, search_dirs=run.search_dirs)
    if not callable(function):
        raise ConfigError(
            f"trainer_common.algorithm.{setting}: {value} is {type(function).__name__}, "
            "expected a function"
        )
    return function


def make_pool(
    run: Run,
    make_chat: MakeChat,
    gateway: Gateway,
    environments: Mapping[str, Environments],
    *,
    max_parallel: int,
    timeout_seconds: float,
    make_reference_chat: MakeChat,
    expect_callers: Callable[[int], None] | None = None,
    max_failed_fraction: float | None = None,
    run_attempt: RunAttempt = run_attempt,
) -> RolloutPool:
    """The pool that runs the configured workflow and judge on `make_chat`.

    Agents that are not trained are answered by `make_reference_chat`, the frozen starting weights,
    or by the server of rollout.untrained_model. `environments` are those of each source of tasks.

    At most `max_parallel` episodes run at once, each for at most `timeout_seconds`. An engine whose
    batches shall not depend on timing is told in `expect_callers` how many are in flight. With
    `max_failed_fraction`, more may fail than rollout.max_failed_fraction says. `run_attempt` runs
    each attempt, by default in this process.
    """
    episode = make_episode_settings(
        run,
        make_chat,
        gateway,
        environments,
        timeout_seconds=timeout_seconds,
        make_reference_chat=make_reference_chat,
    )
    rollout, grace = run.settings.rollout, run.grace
    limits = PoolSettings(
        max_parallel=max_parallel,
        max_failed_fraction=(
            rollout.max_failed_fraction if max_failed_fraction is None else max_failed_fraction
        ),
        max_computing_seconds=rollout.episode_timeout_seconds / 4,
        leave_seconds=min(_LEAVE_SECONDS, grace.rollout_seconds) if grace else _LEAVE_SECONDS,
    )
    return RolloutPool(
        episode,
        make_judging(run),
        limits,
        find_port=lambda: gateway.port,
        is_ending=lambda: grace is not None and grace.is_begun,
        expect_callers=expect_callers,
        run_attempt=run_attempt,
    )


def make_judging(run: Run) -> JudgingBySource:
    """What judges the attempts of the run."""
    settings = run.settings.task_judge
    judging = partial(
        Judging,
        # In processes each answer has its deadline from when one is free.
        timeout_seconds=math.inf if settings.judge_in_process else settings.judge_timeout_seconds,
        madness_reward=run.settings.rollout.agent_madness_reward,
    )
    own = {source: judging(judge) for source, judge in run.own_judges.items()}
    return JudgingBySource(judging(run.judge), own)


def lock_supervised_for(
    run: Run, *, log_file: Path | None, ends_run: bool = True
) -> AbstractContextManager[None]:
    """Inside, code that holds the interpreter lock for too long ends this process, by its name;
    `ends_run` is False where the run goes on without it."""
    limit = run.settings.rollout.lock_timeout_seconds
    if limit is None:
        judge_seconds = run.settings.task_judge.judge_timeout_seconds
        limit = min(max(judge_seconds, _LEAST_LOCK_SECONDS), _MOST_LOCK_SECONDS)
    return lock_supervised(
        limit,
        limit_name="rollout.lock_timeout_seconds",
        advice=_RESUME_ADVICE if ends_run else _LOCK_ADVICE,
        log_file=log_file,
        is_json=run.settings.log.format == "json",
        tells_of_end=ends_run,
    )


def make_episode_settings(
    run: Run,
    make_chat: MakeChat,
    gateway: Gateway,
    environments: Mapping[str, Environments],
    *,
    timeout_seconds: float,
    make_reference_chat: MakeChat,
) -> EpisodeSettings:
    """What each attempt of the run needs; see `make_pool`."""
    rollout = run.settings.rollout
    targets = rollout.trainable_targets
    return EpisodeSettings(
        make_workflow=run.workflow_class,
        own_workflows=run.own_workflows,
        make_chat=make_chat,
        config=run.config,
        timeout_seconds=timeout_seconds,
        surroundings=(GatewayDoor(gateway), *_around(run, environments)),
        trainable_targets=None if targets is None else tuple(targets),
        make_untrained=make_untrained_chats(run, make_reference_chat),
        untrained_model=rollout.untrained_model.model,
    )


def _around(run: Run, environments: Mapping[str, Environments]) -> tuple[Surrounding, ...]:
    if not environments:
        return ()
    rollout = run.settings.rollout
    max_steps = rollout.multi_turn.max_steps
    return (EnvironmentAround(environments, max_steps=max_steps, seed=rollout.seed),)


def make_gateway(run: Run) -> Gateway:
    """The gateway of the run; it listens from when a workflow first asks for its address."""
    settings = run.settings
    training, validation = distributions(settings.rollout)
    return Gateway(
        GatewayOptions(
            **settings.gateway.model_dump(),
            model_name=settings.model.path or settings.debug.openai_model or "astuner",
            training=training,
            validation=validation,
        )
    )
