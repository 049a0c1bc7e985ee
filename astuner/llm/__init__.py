"""Asking models that are not tuned: for judges, task makers, filters and simulated users.

One client, `LanguageModel`, over an OpenAI-compatible server or an AgentScope chat model. Knows no
tasks, episodes or tools, and keeps nothing that could be trained on.
"""

from astuner.llm.budget import (
    LlmUsage,
    UsageTally,
    count_of_another,
    usage_of_process,
    usage_tallied,
)
from astuner.llm.model import LanguageModel
from astuner.llm.opening import (
    close_models,
    open_agentscope_model,
    open_language_model,
    open_model_of_use,
)

__all__ = [
    "LanguageModel",
    "LlmUsage",
    "UsageTally",
    "close_models",
    "count_of_another",
    "open_agentscope_model",
    "open_language_model",
    "open_model_of_use",
    "usage_of_process",
    "usage_tallied",
]
