"""Variables of the environment that hold secrets, on their way to the processes of a run.

Ray writes the variables of a runtime environment into logs that every user of the machine may read,
and copies of them lie in the run directory. What a process sets itself as it starts it does not.
"""

from collections.abc import Callable, Mapping
from typing import Any

from astuner.config.secret import without_secrets

_VARIABLES = "env_vars"
_HOOK = "worker_process_setup_hook"


def with_hidden_variables(runtime_env: Mapping[str, Any]) -> dict[str, Any]:
    """The same environment for Ray, with which no secret is written to a file."""
    variables = dict(runtime_env.get(_VARIABLES, {}))
    shown = without_secrets(variables)
    hidden = {name: value for name, value in variables.items() if shown[name] != value}
    if not hidden:
        return dict(runtime_env)
    open_ones = {name: value for name, value in variables.items() if name not in hidden}
    return {**runtime_env, _VARIABLES: open_ones, _HOOK: _setting(hidden)}


def _setting(variables: Mapping[str, str]) -> Callable[[], None]:
    def set_variables() -> None:
        import os

        os.environ.update(variables)

    return set_variables
