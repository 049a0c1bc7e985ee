"""What the gateway serves where: its wire formats, the list of models, and health.

A call is answered in `endpoint.py`.
"""

from collections.abc import Callable, Sequence

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from astuner.gateway.asker import FindAsker
from astuner.gateway.endpoint import Endpoint, asker_of
from astuner.gateway.refusals import check_served, gateway_failed, refused_call
from astuner.gateway.wires.anthropic_messages import MESSAGES
from astuner.gateway.wires.chat_completions import CHAT_COMPLETIONS
from astuner.gateway.wires.completions import COMPLETIONS
from astuner.gateway.wires.responses import RESPONSES
from astuner.gateway.wires.shared import openai_error
from astuner.gateway.wires.wire_format import WireFormat
from astuner.serving.answer import json_answer, refused
from astuner.serving.bounds import WaitingRoom
from astuner.serving.json_text import JSON
from astuner.serving.refusal import CLOSE, Refusal

WIRE_FORMATS: Sequence[WireFormat] = (CHAT_COMPLETIONS, COMPLETIONS, RESPONSES, MESSAGES)


def make_app(
    find: FindAsker,
    *,
    list_models: Callable[[], Sequence[str]],
    max_body_bytes: int,
    waiting: WaitingRoom,
    further: Sequence[Route] = (),
    docs: str = "docs/gateway.md",
) -> Starlette:
    """All that the gateway serves, and `further` routes; `docs` tell of them."""
    shapes = {wire.path: wire.error for wire in WIRE_FORMATS}
    routes = [
        Route(wire.path, Endpoint(wire, find, max_body_bytes, waiting), methods=["POST"])
        for wire in WIRE_FORMATS
    ]

    # Coroutines, since Starlette runs plain functions in threads.
    async def models(request: Request) -> Response:
        try:
            asker_of(request.scope, find)
        except Refusal as refusal:
            return refused(refusal, openai_error)
        return json_answer({"object": "list", "data": [_model(name) for name in list_models()]})

    async def model(request: Request) -> Response:
        name = request.path_params["name"]
        try:
            asker_of(request.scope, find)
            check_served(name, list_models())
        except Refusal as refusal:
            return refused(refusal, openai_error)
        return json_answer(_model(name))

    async def health(request: Request) -> Response:
        return json_answer({"status": "ok", "waiting_calls": waiting.num_requests})

    async def missing(request: Request, error: Exception) -> Response:
        what = f"{request.method} {request.url.path} is not served; see {docs}"
        status = getattr(error, "status_code", 404)
        refusal = Refusal(status, what, code="not_found")
        try:
            asker = asker_of(request.scope, find)
            with asker.serving():
                asker.note_refused(refused_call(request.url.path, refusal))
        except Refusal:  # whoever has no key of an episode has no record
            refusal = Refusal(status, what, code="not_found", headers=CLOSE)
        return refused(refusal, shapes.get(request.url.path, openai_error))

    async def broken(request: Request, error: Exception) -> Response:
        shape = shapes.get(request.url.path, openai_error)
        return refused(gateway_failed(error), shape)

    routes += [
        Route("/v1/models", models, methods=["GET"]),
        Route("/v1/models/{name:path}", model, methods=["GET"]),
        Route("/healthz", health, methods=["GET"]),
        *further,
    ]
    return Starlette(routes=routes, exception_handlers={404: missing, 405: missing, 500: broken})


def _model(name: str) -> JSON:
    return {"id": name, "object": "model", "created": 0, "owned_by": "astuner"}
