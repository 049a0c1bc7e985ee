"""From settings and environment to a model that can be asked.

Settings may be the typed section or what a judge finds in `config.astuner`: both are read by
attribute.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any, Literal
from urllib.parse import urlsplit
from weakref import WeakSet

from astuner.errors import ConfigError
from astuner.llm.agentscope_endpoint import AgentScopeEndpoint
from astuner.llm.answer_cache import AnswerCache
from astuner.llm.budget import Budget
from astuner.llm.endpoint import ModelEndpoint
from astuner.llm.limiter import CallLimiter
from astuner.llm.model import LanguageModel
from astuner.llm.openai_endpoint import OpenAIEndpoint
from astuner.llm.patience import PatientEndpoint
from astuner.llm.retries import Backoff
from astuner.llm.server import LlmServer

DASHSCOPE_URL = "https://dashscope.aliyuncs.com/compatible-mode/v1"
DASHSCOPE_KEY = "DASHSCOPE_API_KEY"

_opened: WeakSet[LanguageModel] = WeakSet()
"""Those that somebody still holds; changed by `_assemble` only."""

Use = Literal["task_judge", "data_generation", "feedback_tracing"]


def open_model_of_use(
    settings: Any, use: Use, *, environ: Mapping[str, str] = os.environ
) -> LanguageModel:
    """The model of a judge (`task_judge`), of making tasks or of reading traces.

    `settings` is all of `astuner:`. Model and length of answers are those that the section of the
    use names; the configuration has put llm.model there where the user named none.
    """
    if use == "task_judge":
        section = settings.task_judge
        model, length = section.alien_llm_model, section.alien_llm_response_length
    elif use == "data_generation":
        section = settings.task_reader.data_generation
        model, length = section.llm_model, section.llm_response_length
    else:
        section = settings.task_reader.feedback_tracing
        model, length = section.alien_llm_model, section.alien_llm_response_length
    return open_language_model(settings.llm, model, max_new_tokens=length, environ=environ)


def open_language_model(
    llm: Any,
    model_name: str,
    *,
    max_new_tokens: int,
    environ: Mapping[str, str] = os.environ,
) -> LanguageModel:
    """A model of the server in `llm`, the section of settings, with its limits and cache.

    Each model that is opened has a budget and a bound on calls of its own. Raises ConfigError where
    no server is known, its address is none, or the package openai is missing.
    """
    server = find_server(llm, environ)
    cache = None if llm.cache_dir is None else AnswerCache(Path(llm.cache_dir))
    endpoint = OpenAIEndpoint(server, model_name)
    return _assemble(endpoint, llm, cache=cache, max_new_tokens=max_new_tokens)


def open_agentscope_model(llm: Any, model: Any) -> LanguageModel:
    """The same over an AgentScope chat model, with the limits in `llm` and without a cache."""
    return _assemble(AgentScopeEndpoint(model), llm, cache=None, max_new_tokens=None)


async def close_models() -> None:
    """Close all models that were asked in the running event loop, whoever opened them."""
    for model in [model for model in _opened if model.is_of_this_loop]:
        await model.close()


def find_server(llm: Any, environ: Mapping[str, str]) -> LlmServer:
    """llm.base_url with its key; without one, DashScope where the environment has its key."""
    if llm.base_url is not None:
        _check_address(llm.base_url)
        return LlmServer.read(llm.base_url, llm.api_key_env, environ)
    dashscope = LlmServer.read(DASHSCOPE_URL, DASHSCOPE_KEY, environ)
    if not dashscope.keys:
        raise ConfigError(
            f"astuner.llm.base_url is not set, and neither is {DASHSCOPE_KEY} in the environment: "
            "no server is known that could be asked; set one of them"
        )
    return dashscope


def _check_address(base_url: str) -> None:
    parts = urlsplit(base_url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(
            f"astuner.llm.base_url = {base_url!r} is no address of a server; write it as "
            "http://127.0.0.1:8000/v1"
        )
    if parts.username is not None:
        raise ConfigError(
            f"astuner.llm.base_url for {parts.hostname} holds a user name or password; take it "
            "out, and put the key into the variable that astuner.llm.api_key_env names"
        )


def _assemble(
    endpoint: ModelEndpoint, llm: Any, *, cache: AnswerCache | None, max_new_tokens: int | None
) -> LanguageModel:
    model = LanguageModel(
        PatientEndpoint(
            endpoint,
            limiter=CallLimiter(llm.max_parallel),
            budget=Budget(max_calls=llm.max_calls, max_tokens=llm.max_tokens),
            # Without a seed: processes that were refused together must not come back together.
            backoff=Backoff(random=Random()),
        ),
        cache=cache,
        timeout_seconds=llm.timeout_seconds,
        max_new_tokens=max_new_tokens,
    )
    _opened.add(model)
    return model
