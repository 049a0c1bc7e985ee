"""What the server answers where: who may ask, which route, and the shape of answers and errors.

Clients of older services read `success` and `data`, or `detail` of an error; ours reads `error`.
"""

import hmac
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from astuner.env_service.server.asked import AskedBody
from astuner.env_service.server.instances import Instances
from astuner.env_service.server.world import ServerSettings
from astuner.serving.answer import json_answer, refused
from astuner.serving.bounds import WaitingRoom, read_body
from astuner.serving.connection import connection_of
from astuner.serving.json_text import JSON
from astuner.serving.keys import bearer_key
from astuner.serving.refusal import CLOSE, Refusal

logger = logging.getLogger(__name__)

VERSION_HEADER = "EnvService-Version"
VERSION = "2"
"""Of the protocol. A client that reads it may send a step again: it is known by its index."""

_MAX_WAITING = 4096
_MAX_KEY_BYTES = 200
_IDEMPOTENCY_KEY = b"idempotency-key"


def error_body(refusal: Refusal) -> JSON:
    """`retriable`: the same request may be answered later."""
    error = {
        "code": refusal.code,
        "message": refusal.message,
        "retriable": refusal.status in (429, 503),
    }
    return {"success": False, "data": None, "error": error, "detail": refusal.message}


class EnvServiceApp:
    """All that the server answers, as an ASGI application."""

    def __init__(self, instances: Instances, settings: ServerSettings) -> None:
        self._instances = instances
        self._settings = settings
        self._waiting = WaitingRoom(_MAX_WAITING, setting="a bound of the environment server")
        self._routes: Mapping[str, Callable[[AskedBody, Scope], Awaitable[Any]]] = {
            "/get_env_profile": self._profile,
            "/create": self._create,
            "/step": self._step,
            "/evaluate": self._evaluate,
            "/get_info": self._info,
            "/release": self._release,
            "/heartbeat": self._heartbeat,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            answer = await self._answer(scope, receive)
        except ClientDisconnect:
            return
        except Refusal as refusal:
            answer = refused(refusal, error_body)
        except Exception:  # a fault of ours: the client is told of it as of any other error
            logger.exception("request failed path=%s", scope["path"])
            broken = Refusal(
                500, "the environment server failed; its log says how", code="server_failed"
            )
            answer = refused(broken, error_body)
        await answer(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive) -> Response:
        path, method = scope["path"], scope["method"]
        if path == "/healthz" and method in ("GET", "HEAD"):
            return PlainTextResponse("OK")
        headers = dict(scope["headers"])
        self._check_token(headers)
        route = self._routes.get(path)
        if route is None:
            known = ", ".join(self._routes)
            raise Refusal(
                404, f"{path[:100]} is not served; POST to {known}", code="not_found", headers=CLOSE
            )
        if method != "POST":
            raise Refusal(
                405, f"{path} answers POST only", code="wrong_method", headers={"allow": "POST"}
            )
        connection_of(scope).know()
        with self._waiting.place():
            body = await read_body(
                headers, receive, max_bytes=self._settings.max_body_bytes, setting="max_body_bytes"
            )
            return json_answer(
                {"success": True, "data": await route(AskedBody.parsed(body), scope)}
            )

    def _check_token(self, headers: Mapping[bytes, bytes]) -> None:
        token = self._settings.token
        if token is None:
            return
        shown = bearer_key(headers) or ""
        if not hmac.compare_digest(shown.encode(), token.encode()):
            raise Refusal(
                401,
                "this server asks for its token: send the header Authorization: Bearer TOKEN "
                f"with {'the right one' if shown else 'it'}",
                code="invalid_token",
                headers={"www-authenticate": "Bearer", **CLOSE},
            )

    async def _profile(self, asked: AskedBody, scope: Scope) -> Any:
        return list(await self._instances.task_ids(asked.env_type, asked.split))

    async def _create(self, asked: AskedBody, scope: Scope) -> Any:
        creation = asked.creation(max_ttl_seconds=self._settings.ttl_seconds)
        return await self._instances.create(creation, instance_id=asked.own_instance_id())

    async def _step(self, asked: AskedBody, scope: Scope) -> Any:
        name, index, key = asked.instance_id, asked.step_index, _idempotency_key(scope)
        turn = self._instances.turn(name, asked.action, index=index, key=key)
        answer = await self._instances.answer(name, turn)
        turn.is_delivered |= not connection_of(scope).is_lost
        return answer

    async def _evaluate(self, asked: AskedBody, scope: Scope) -> Any:
        return await self._instances.evaluate(asked.instance_id, sparse=asked.is_sparse)

    async def _info(self, asked: AskedBody, scope: Scope) -> Any:
        return self._instances.described(asked.instance_id)

    async def _release(self, asked: AskedBody, scope: Scope) -> Any:
        try:
            await self._instances.release(asked.instance_id)
        except Refusal as refusal:
            # Older services answer so, and their clients count on it.
            raise Refusal(200, refusal.message, code=refusal.code) from refusal

    async def _heartbeat(self, asked: AskedBody, scope: Scope) -> Any:
        heard = self._instances.hear(asked.instance_ids)
        gone = {name: error_body(why)["error"] for name, why in heard["gone"].items()}
        return {"alive": heard["alive"], "gone": gone}


class Versioned:
    """Says the version of the protocol in the header of every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_version(message: Message) -> None:
            if message["type"] == "http.response.start":
                header = (VERSION_HEADER.lower().encode(), VERSION.encode())
                message["headers"] = [*message["headers"], header]
            await send(message)

        await self._app(scope, receive, send_with_version)


def _idempotency_key(scope: Scope) -> str | None:
    key = dict(scope["headers"]).get(_IDEMPOTENCY_KEY)
    if key is not None and len(key) > _MAX_KEY_BYTES:
        raise Refusal(
            400,
            f"Idempotency-Key: it has {len(key)} characters; send at most {_MAX_KEY_BYTES}",
            code="invalid_field",
            param="Idempotency-Key",
        )
    return None if key is None else key.decode("latin-1")
