"""Why the gateway does not answer a call. Owns no error shape: each wire format has its own."""

import asyncio

from astuner.errors import EngineError, EpisodeError, RequestError
from astuner.serving.refusal import Refusal


def bad_request(message: str, *, param: str | None = None) -> Refusal:
    return Refusal(400, message, code="invalid_value", param=param)


def unsupported(param: str, what: str) -> Refusal:
    return Refusal(400, f"{param}: {what}", code="unsupported_parameter", param=param)


def unknown_key() -> Refusal:
    return Refusal(
        401,
        "this API key is not one of this run; use the one that "
        "model_tuner.as_oai_baseurl_apikey() gave to the episode",
        code="invalid_api_key",
    )


def over() -> Refusal:
    return Refusal(
        410,
        "the episode of this key is over; no further call of its agent is answered",
        code="episode_finished",
    )


def refusal_of(error: BaseException) -> Refusal:
    """The refusal that an error of the chat path amounts to; unknown errors are raised again."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, asyncio.CancelledError):
        return over()
    if isinstance(error, RequestError):
        return bad_request(str(error), param=error.param)
    if isinstance(error, EngineError):
        return Refusal(500, str(error), code="engine_failed")
    if isinstance(error, EpisodeError):
        return Refusal(410, str(error), code="episode_finished")
    raise error
