"""Why the gateway does not answer a call. Owns no error shape: each wire format has its own."""

import asyncio
from collections.abc import Sequence

from astuner.errors import EngineError, EpisodeError, RequestError
from astuner.inference.excerpt import excerpt
from astuner.serving.refusal import CLOSE, Refusal
from astuner.trajectory.refused import RefusedCall

_MAX_NAMED = 20
"""Unknown fields of a body that are named; a client may send any number."""


def bad_request(message: str, *, param: str | None = None) -> Refusal:
    return Refusal(400, message, code="invalid_value", param=param)


def unsupported(param: str, what: str) -> Refusal:
    return Refusal(400, f"{param}: {what}", code="unsupported_parameter", param=param)


def unknown_fields(names: Sequence[str]) -> Refusal:
    """At least one; the first by name is the one that programs are told."""
    shown = [excerpt(name) for name in sorted(names)[:_MAX_NAMED]]
    if len(names) > _MAX_NAMED:
        shown.append(f"and {len(names) - _MAX_NAMED} more")
    what = (
        "this field is not supported; leave it out"
        if len(names) == 1
        else "these fields are not supported; leave them out"
    )
    return Refusal(400, f"{', '.join(shown)}: {what}", code="unsupported_parameter", param=shown[0])


def all_of(problems: Sequence[Refusal]) -> Refusal:
    """One refusal for all that is wrong with a body; programs are told the first."""
    first = problems[0]
    if len(problems) == 1:
        return first
    shown = [f"({i}) {problem.message}" for i, problem in enumerate(problems[:_MAX_NAMED], 1)]
    message = f"{len(problems)} things are wrong with this call: {'; '.join(shown)}"
    return Refusal(400, message, code=first.code, param=first.param)


def unknown_key() -> Refusal:
    return Refusal(
        401,
        "this API key is not one of this run; use the one that "
        "model_tuner.as_oai_baseurl_apikey() gave to the episode",
        code="invalid_api_key",
        headers=CLOSE,
    )


def over() -> Refusal:
    return Refusal(
        410,
        "the episode of this key is over; no further call of its agent is answered",
        code="episode_finished",
    )


def check_served(name: str, names: Sequence[str]) -> None:
    """Raises Refusal for a model that is none of these."""
    if name not in names:
        shown = ", ".join(names[:_MAX_NAMED]) + (" …" if len(names) > _MAX_NAMED else "")
        raise Refusal(
            404,
            f"there is no model {excerpt(name)!r} here; this server has {shown}",
            code="model_not_found",
            param="model",
        )


def gateway_failed(error: Exception) -> Refusal:
    return Refusal(
        500,
        f"the gateway failed with {type(error).__name__}; run.log has the traceback",
        code="gateway_failed",
    )


def refused_call(path: str, refusal: Refusal) -> RefusedCall:
    """What is kept of a call of `path` that was refused."""
    return RefusedCall.of(
        path=path, status=refusal.status, field=refusal.param, message=refusal.message
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
