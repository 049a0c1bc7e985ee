"""Whether a server answers for a model, seen by a question of one token before it is evaluated."""

import difflib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from astuner.backbone.evaluation_run import NamedServer
from astuner.config.secret import mask_text
from astuner.errors import ConfigError
from astuner.evaluating.named_model import NamedModel, served_model
from astuner.llm.dialect import Dialect
from astuner.llm.server import LlmServer, describe_no_completion

if TYPE_CHECKING:
    from openai import AsyncOpenAI, OpenAIError

_TIMEOUT_SECONDS = 60.0
"""A server may load a model at the first question."""
_NUM_SHOWN = 8
_LIMIT_REACHED = "output limit was reached"
"""What OpenAI's models say that think for longer than a token: they are there, and they answer."""


async def checked_server(model: NamedModel, *, temperature: float) -> NamedModel:
    """The model with its name on the server, which may be left out where the server has one alone.

    Raises ConfigError where nobody answers there, the key is refused, or the model is not there.
    """
    assert model.server is not None
    server = model.server.server
    async with server.open_client(max_retries=0) as client:
        name = model.server.model_name or await _only_model(client, server)
        await _ask(client, NamedServer(server=server, model_name=name), temperature=temperature)
    return served_model(server, name)


async def _only_model(client: "AsyncOpenAI", server: LlmServer) -> str:
    names = await _listed(client, server)
    if len(names) == 1:
        return names[0]
    place = mask_text(server.base_url)
    if not names:
        raise ConfigError(f"--model {place}: the server lists no model; write {place}#NAME")
    raise ConfigError(
        f"--model {place}: it says not which model; write {place}#NAME, where NAME is one of "
        f"{_shown(names)}"
    )


async def _listed(client: "AsyncOpenAI", server: LlmServer) -> list[str]:
    from openai import OpenAIError

    try:
        # Not `models.list`, which takes whatever answers for a list.
        listed = await client.get("/models", cast_to=object, options={"timeout": _TIMEOUT_SECONDS})
    except OpenAIError as error:
        raise _refusal(error, server) from error
    except ValueError as error:  # which the package lets through, as of JSON that is cut off
        place = mask_text(server.base_url)
        raise ConfigError(f"--model {place}: its list of models cannot be read: {error}") from error
    found = listed.get("data") if isinstance(listed, dict) else None
    if not isinstance(found, list):
        said = server.without_keys(str(listed))[:200]
        raise ConfigError(
            f"--model {mask_text(server.base_url)}: its list of models is none but {said!r}; does "
            "the address end in /v1?"
        )
    names = (model.get("id") for model in found if isinstance(model, dict))
    return [name for name in names if isinstance(name, str)]


async def _ask(client: "AsyncOpenAI", model: NamedServer, *, temperature: float) -> None:
    from openai import NotFoundError, OpenAIError

    try:
        answer: Any = await Dialect(model.model_name, tell=_leave_to_the_run).ask(
            client.chat.completions.create,
            {
                "model": model.model_name,
                "messages": [{"role": "user", "content": "Say yes."}],
                "max_tokens": 1,
                "temperature": temperature,
                "timeout": _TIMEOUT_SECONDS,
            },
        )
    except NotFoundError as error:
        raise ConfigError(await _not_there(client, model, error)) from error
    except OpenAIError as error:
        if _LIMIT_REACHED in str(error):
            return
        raise _refusal(error, model.server) from error
    except ValueError as error:
        place = mask_text(model.server.base_url)
        raise ConfigError(f"--model {place}: its answer cannot be read: {error}") from error
    if not getattr(answer, "choices", None):
        place = mask_text(model.server.base_url)
        raise ConfigError(f"--model {place}: {describe_no_completion(answer)}")


def _leave_to_the_run(_learnt: str) -> None:
    """Which says it in its own log."""


async def _not_there(client: "AsyncOpenAI", model: NamedServer, error: "OpenAIError") -> str:
    place = mask_text(model.server.base_url)
    try:
        names = await _listed(client, model.server)
    except ConfigError:
        return (
            f"--model {place}#{model.model_name}: the server answers 404: "
            f"{_told(error, model.server)}; does the address end in /v1?"
        )
    near = difflib.get_close_matches(model.model_name, names, n=1)
    hint = f"did you mean {near[0]}?" if near else f"it has {_shown(names)}"
    return f"--model {place}: the server has no model {model.model_name!r}; {hint}"


def _refusal(error: "OpenAIError", server: LlmServer) -> ConfigError:
    from openai import (
        APIConnectionError,
        APITimeoutError,
        AuthenticationError,
        PermissionDeniedError,
    )

    place = mask_text(server.base_url)
    if isinstance(error, AuthenticationError | PermissionDeniedError):
        sent = "the key in it was refused" if server.keys else "it is not set, so none was sent"
        return ConfigError(
            f"--model {place}: the server takes no request without a key of its own "
            f"({error.status_code}); the key is read from the variable {server.api_key_env}, and "
            f"{sent}. Set it, or name another one by --api-key-env"
        )
    if isinstance(error, APITimeoutError):
        return ConfigError(
            f"--model {place}: no answer within {_TIMEOUT_SECONDS:.0f} seconds; see whether the "
            "server is up, and whether it speaks http or https"
        )
    if isinstance(error, APIConnectionError):
        why = error.__cause__ or error
        return ConfigError(
            f"--model {place}: nobody answers there: {type(why).__name__}: {why}; see whether the "
            "server runs and the address is right"
        )
    return ConfigError(
        f"--model {place}: the server refuses a question of one token: {_told(error, server)}"
    )


def _told(error: "OpenAIError", server: LlmServer) -> str:
    return mask_text(server.without_keys(" ".join(str(error).split())))[:500]


def _shown(names: Sequence[str]) -> str:
    more = ", …" if len(names) > _NUM_SHOWN else ""
    return (", ".join(names[:_NUM_SHOWN]) + more) or "none"
