"""Which model each use of a language model asks, when the user named one for all of them.

Settled while the configuration is loaded, since only then it is known what the user set: whoever
reads the key of a use, a user's own judge too, finds the model to ask.
"""

from collections.abc import Collection
from typing import Any

MODEL_KEYS = (
    "astuner.task_judge.alien_llm_model",
    "astuner.task_judge.rubrics_auto_grader.model_name",
    "astuner.task_reader.data_generation.llm_model",
    "astuner.task_reader.feedback_tracing.alien_llm_model",
)
"""The model of each use."""


def name_models(section: Any, explicit_keys: Collection[str]) -> None:
    """Put llm.model, where it is set, in place of the models that the user did not set.

    `section` is the resolved `astuner:`, changed in place; what has another shape than it should is
    left for the schema to refuse.
    """
    model = _find(section, "llm").get("model")
    if not isinstance(model, str):
        return
    for key in MODEL_KEYS:
        if key not in explicit_keys:
            *parents, name = key.split(".")[1:]
            _find(section, *parents)[name] = model


def _find(section: Any, *names: str) -> dict[str, Any]:
    """The section of these names; an empty one of its own where there is none."""
    for name in names:
        section = section.get(name) if isinstance(section, dict) else None
    return section if isinstance(section, dict) else {}
