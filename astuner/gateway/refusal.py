"""Why a call gets no answer, as a status and the fields that both error shapes are made of."""

import asyncio
from collections.abc import Mapping

from astuner.errors import EngineError, EpisodeError, RequestError


class Refusal(Exception):
    """A call that is not answered."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        """One word for programs, for example invalid_api_key."""
        self.param = param
        """The field of the body that is at fault."""
        self.headers = dict(headers or {})


def bad_request(message: str, *, param: str | None = None) -> Refusal:
    return Refusal(400, message, code="invalid_value", param=param)


def unsupported(param: str, what: str) -> Refusal:
    return Refusal(400, f"{param}: {what}", code="unsupported_parameter", param=param)


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
