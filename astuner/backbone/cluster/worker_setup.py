"""What each worker process that Ray starts for a run does before anything else.

It sets the variables of the environment that hold secrets: Ray writes those of a runtime
environment into logs that every user of the machine may read, and copies of them lie in the run
directory. And it looks for cycles of objects as seldom as the command does.
"""

import os
from collections.abc import Callable, Mapping
from typing import Any

from astuner.config.secret import without_secrets
from astuner.machine.heap import NEW_OBJECTS

_VARIABLES = "env_vars"
_HOOK = "worker_process_setup_hook"
_HOOK_OF_THE_JOB = "__RAY_WORKER_PROCESS_SETUP_HOOK_ENV_VAR"
"""Environment variable of a command that `ray job submit` started with a hook of the user's, beside
which Ray takes no other."""


def with_worker_setup(runtime_env: Mapping[str, Any]) -> dict[str, Any]:
    """The same environment for Ray, with which no secret is written to a file."""
    variables = dict(runtime_env.get(_VARIABLES, {}))
    shown = without_secrets(variables)
    hidden = {name: value for name, value in variables.items() if shown[name] != value}
    if not hidden and _HOOK_OF_THE_JOB in os.environ:
        return dict(runtime_env)
    open_ones = {name: value for name, value in variables.items() if name not in hidden}
    return {**runtime_env, _VARIABLES: open_ones, _HOOK: _setup(hidden)}


def _setup(variables: Mapping[str, str]) -> Callable[[], None]:
    num_objects = NEW_OBJECTS

    def set_up_worker() -> None:
        import gc
        import os

        gc.set_threshold(num_objects)
        os.environ.update(variables)

    return set_up_worker
