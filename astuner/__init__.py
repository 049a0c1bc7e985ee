"""astuner tunes the model behind a working agent by reinforcement learning."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from astuner.job import AstunerJob
    from astuner.tuner import ModelTuner
    from astuner.types import Judgement, WorkflowOutput, WorkflowTask
    from astuner.workflow import Workflow

__version__ = "0.1.0"

__all__ = [
    "AstunerJob",
    "Judgement",
    "ModelTuner",
    "Workflow",
    "WorkflowOutput",
    "WorkflowTask",
    "__version__",
]
_PLACES = {
    "AstunerJob": "astuner.job",
    "Judgement": "astuner.types",
    "ModelTuner": "astuner.tuner",
    "Workflow": "astuner.workflow",
    "WorkflowOutput": "astuner.types",
    "WorkflowTask": "astuner.types",
}
"""Imported when asked for: the command answers signals before it imports the rest."""


def __getattr__(name: str) -> object:
    from importlib import import_module

    if name in _PLACES:
        found = globals()[name] = getattr(import_module(_PLACES[name]), name)
        return found
    raise AttributeError(f"module 'astuner' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
