"""Who may ask the viewer for a page, and how: stands before the application.

Whoever shows the token once, in the link that was printed, is known by a cookie from then on. The
token stays in no address, where it would be copied along with a link, or shown over a shoulder.
"""

import hmac
from collections.abc import Callable, Mapping
from urllib.parse import parse_qsl, urlencode

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from astuner.logview.web.site import Site
from astuner.serving.bounds import WaitingRoom
from astuner.serving.connection import connection_of
from astuner.serving.keys import bearer_key
from astuner.serving.refusal import CLOSE, Refusal

_METHODS = ("GET", "HEAD")
_MAX_WAITING = 64
"""Requests; a browser asks for six things at a time."""
_OPEN_TO_ALL = "/static/"
"""What this page about the token is drawn with; it is the same in every copy of astuner."""


class Gate:
    """Lets requests through that only read and, where there is a token, show it."""

    def __init__(
        self,
        app: ASGIApp,
        site: Site,
        *,
        token: str | None,
        cookie: str,
        on_request: Callable[[Request], None],
    ) -> None:
        """`cookie` is its name, which differs between viewers: browsers send cookies to all ports
        of a host. `on_request` is told of each that is let through."""
        self._app = app
        self._site = site
        self._token = token
        self._cookie = cookie
        self._on_request = on_request
        self._waiting = WaitingRoom(_MAX_WAITING, setting="a bound of the viewer")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope)
        answer = self._refusal(request) or self._entry(request)
        if answer is not None:
            await answer(scope, receive, send)
            return
        connection_of(scope).know()
        self._on_request(request)
        try:
            with self._waiting.place():
                await self._app(scope, receive, send)
        except Refusal as refusal:
            full = self._said(
                request,
                refusal.status,
                "Too much at once",
                "Many pages are being made already; ask again in a second.",
                headers=refusal.headers,
            )
            await full(scope, receive, send)

    def _refusal(self, request: Request) -> Response | None:
        if request.method not in _METHODS:
            return self._said(
                request,
                405,
                "Nothing to send here",
                "The viewer only shows, so it answers GET and HEAD, and changes nothing.",
                headers={"allow": ", ".join(_METHODS), **CLOSE},
            )
        if self._token is None or self._is_known(request):
            return None
        return self._said(
            request,
            401,
            "The token is missing",
            "This viewer asks for its token: open the link that was printed where it was started. "
            "If you did that in this browser before, open this page again.",
            headers=CLOSE,
        )

    def _is_known(self, request: Request) -> bool:
        shown = (
            request.query_params.get("token"),
            request.cookies.get(self._cookie),
            bearer_key(dict(request.scope["headers"])),
        )
        return request.url.path.startswith(_OPEN_TO_ALL) or any(map(self._is_token, shown))

    def _is_token(self, text: str | None) -> bool:
        assert self._token is not None
        return hmac.compare_digest((text or "").encode("utf-8", "replace"), self._token.encode())

    def _entry(self, request: Request) -> Response | None:
        """For a request with a token in its address, the same one without it.

        By a page and not by a redirect: where the link was followed from another site, browsers
        would leave a strict cookie out behind a redirect.
        """
        if "token" not in request.query_params:
            return None
        target = _without_token(request)
        answer = self._said(
            request,
            200,
            "Welcome",
            "This browser is known now.",
            again=target,
            headers={"refresh": f"0; url={target}", "cache-control": "no-store"},
        )
        if self._token is not None:
            answer.set_cookie(self._cookie, self._token, httponly=True, samesite="strict")
        return answer

    def _said(
        self,
        request: Request,
        status: int,
        title: str,
        message: str,
        *,
        again: str | None = None,
        headers: Mapping[str, str],
    ) -> Response:
        answer = self._site.page(
            request,
            "said.html",
            status=status,
            title=title,
            message=message,
            again=again or _without_token(request),
        )
        answer.headers.update(headers)
        return answer


def _without_token(request: Request) -> str:
    """Its address on this server, whatever the request made of it: `//host` would lead elsewhere,
    and so does a backslash in some browsers."""
    path = request.scope["raw_path"].decode("latin-1").replace("\\", "%5C")
    query = parse_qsl(request.url.query, keep_blank_values=True)
    kept = urlencode([(name, value) for name, value in query if name != "token"])
    return f"/{path.lstrip('/')}{'?' if kept else ''}{kept}"
