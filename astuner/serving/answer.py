"""Answers in JSON, those to refused requests among them."""

from collections.abc import Callable, Mapping

from starlette.requests import Request
from starlette.responses import Response

from astuner.serving.json_text import JSON, to_json
from astuner.serving.refusal import Refusal

ErrorShape = Callable[[Refusal], JSON]
"""What a server's clients expect as the body of an error."""


def json_answer(
    value: object, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    return Response(
        to_json(value), status_code=status, headers=headers, media_type="application/json"
    )


def plain_error(refusal: Refusal) -> JSON:
    """The shape of servers that follow no other one."""
    return {"error": {"code": refusal.code, "message": refusal.message}}


def refused(refusal: Refusal, shape: ErrorShape = plain_error) -> Response:
    return json_answer(shape(refusal), status=refusal.status, headers=refusal.headers)


async def answer_refusal(request: Request, refusal: Exception) -> Response:
    """For applications of Starlette: `exception_handlers={Refusal: answer_refusal}`."""
    assert isinstance(refusal, Refusal)
    return refused(refusal)
