"""Which evaluation that is there is the one that is asked for, to be shown or gone on with."""

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from astuner.backbone.evaluation_run import read_recorded
from astuner.config.load import LoadedConfig
from astuner.errors import ConfigError, UnreadableError
from astuner.evaluation.facts import EvaluationFacts
from astuner.run_dir import RunDir


def find_earlier(loaded: LoadedConfig, facts: EvaluationFacts) -> RunDir | None:
    """The newest run directory of this configuration with the same facts; None where none has.

    Raises ConfigError where another process is at work there.
    """
    wanted = _comparable(facts)
    for run in RunDir.all(loaded.experiment_dir, loaded.experiment_name)[::-1]:
        try:
            is_same = _comparable(EvaluationFacts.read(run.root)) == wanted
        except UnreadableError:
            continue
        if is_same:
            _check_is_free(run)
            return run
    return None


def is_whole(run: RunDir, facts: EvaluationFacts, *, retries_failed: bool) -> bool:
    """Whether nothing is left to do there."""
    recorded = read_recorded(run)
    is_retried = retries_failed and recorded.failed
    return not is_retried and len(recorded.all) >= facts.num_tasks * facts.num_repeat


def _check_is_free(run: RunDir) -> None:
    worker = run.worker()
    if worker is not None:
        raise ConfigError(
            f"the same evaluation is under way in {run.root}: {worker}; wait for it, or evaluate "
            "beside it with --again"
        )


def _comparable(facts: EvaluationFacts) -> Mapping[str, Any]:
    """As it is read again; which checkpoint is the best may change while the weights stay."""
    return json.loads(json.dumps(asdict(replace(facts, best_of=None))))
