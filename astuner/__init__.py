"""astuner tunes the model behind a working agent by reinforcement learning."""

from typing import TYPE_CHECKING

from astuner.tuner import ModelTuner
from astuner.types import Judgement, WorkflowOutput, WorkflowTask
from astuner.workflow import Workflow

if TYPE_CHECKING:
    from astuner.job import AstunerJob

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


def __getattr__(name: str) -> object:
    if name == "AstunerJob":
        from astuner.job import AstunerJob

        return AstunerJob
    raise AttributeError(f"module 'astuner' has no attribute {name!r}")
